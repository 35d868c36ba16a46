"""Drafts drawn on a device: the host's noise to the bit of its words, and its tokens in all but near ties."""

from typing import Any

import numpy as np
import pytest
import torch

from offload.backends.eager.backend import EagerBackend
from offload.backends.eager.noise import gumbel, philox
from offload.backends.emulated import open_emulated
from offload.sampling import DraftStart, Sampler, SamplingParams
from offload.sampling.drafts import HostDraftSampler
from offload.sampling.noise import gumbel as host_gumbel
from offload.sampling.noise import philox as host_philox

OPEN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 1.3, **OPEN},
    {"top_k": 5, "temperature": 2.0},
    {"top_p": 0.7, "top_k": 0},
    {"top_p": 0.0},
    {"min_p": 0.2},
    {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2, "penalty_last_n": 5},
    {"temperature": 0, "repetition_penalty": 1.5},
    {"logit_bias": {3: 4.0, 7: -float("inf")}},
]


def test_words_are_the_hosts() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, (6, 200)).astype(np.uint64)
    keys = int(words[4, 0]), int(words[5, 0])
    ours = philox(*(torch.from_numpy(row.astype(np.int64)) for row in words[:4]), *keys)
    for i in range(200):
        theirs = host_philox(*words[:4, i], *(np.uint64(key) for key in keys))
        assert [int(word[i]) for word in ours] == [int(word) for word in theirs]


@pytest.mark.parametrize("seed", [0, 1 << 40, (1 << 64) - 1])
def test_noise_is_the_hosts(seed: int) -> None:
    ids = np.arange(3000)
    np.testing.assert_allclose(
        gumbel(seed, 1 << 33, torch.from_numpy(ids)).numpy(), host_gumbel(seed, 1 << 33, ids), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(map(str, s)) or "default")
def test_drafts_are_the_hosts(settings: dict[str, Any]) -> None:
    """Two sequences, six drafts each, the second stopping earlier; drafted tokens count as history."""
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((12, 2, 40)) * 2).astype(np.float32)
    histories = [rng.integers(0, 40, 9).tolist(), rng.integers(0, 40, 3).tolist()]
    samplers = [Sampler(SamplingParams(seed=seed, **settings)) for seed in (1, 2)]
    starts = [DraftStart(s, len(history), history) for s, history in zip(samplers, histories, strict=True)]
    for backend in (EagerBackend("torch", torch.device("cpu"), True), open_emulated("", None, True)):
        ours, theirs = backend.draft_sampler(starts), HostDraftSampler(starts)
        for step in range(6):
            num = 2 if step < 4 else 1
            ours.draw(range(num), backend.upload_vector("logits", logits[step, :num]))
            theirs.draw(range(num), logits[step, :num])
        before = backend.ledger.totals()
        drawn, expected = ours.read_back(), theirs.read_back()
        assert [ids for ids, _ in drawn] == [ids for ids, _ in expected]
        assert [len(ids) for ids, _ in drawn] == [6, 4]
        for (_, p), (_, expected_p) in zip(drawn, expected, strict=True):
            assert p == pytest.approx(expected_p, rel=1e-4)
        assert backend.ledger.totals() - before == {("tokens", "down"): 80}
