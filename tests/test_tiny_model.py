"""The trained model of the package: real acceptance, the bugs that lower it, losslessness, and llama.cpp's tokens."""

import json
import urllib.request
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offload
from offload.drafting import MtpDrafter, Observation

PROMPTS: list[dict[str, str]] = json.loads(
    (Path(offload.__file__).parent / "models" / "prompts.json").read_text(encoding="utf-8")
)
NUM_TOKENS = 100


def acceptance(model: offload.LanguageModel, drafter: Any = "mtp") -> float:
    """Share of first drafts accepted along greedy continuations of the held-out prompts."""
    drafted = accepted = 0
    for prompt in PROMPTS:
        model.logits([0])  # nothing may be reused from what another drafter left
        result = model.generate(prompt["text"], max_tokens=NUM_TOKENS, draft=1, drafter=drafter, temperature=0).finish()
        drafted += result.acceptance.drafted
        accepted += result.acceptance.accepted
    assert drafted > 100
    return accepted / drafted


def test_it_is_small_and_has_everything(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    assert tiny_path.stat().st_size <= 16_000_000
    assert tiny.mtp is not None
    assert tiny.config.num_moe_layers >= 4
    assert (tiny.config.num_experts, tiny.config.num_used_experts) == (16, 4)
    assert {prompt["kind"] for prompt in PROMPTS} == {"code", "prose"}


def test_acceptance_on_its_own_text(tiny: offload.LanguageModel) -> None:
    assert acceptance(tiny) >= 0.65


class _Spoiled(MtpDrafter):
    """Shows the MTP block wrong states."""

    def observe(self, observations: Many[Observation]) -> None:
        super().observe([self.spoil(o) for o in observations])

    def spoil(self, observation: Observation) -> Observation:
        raise NotImplementedError


class BeforeNorm(_Spoiled):
    """The state before the output norm. Its scale does not matter, because the block norms it again."""

    def spoil(self, observation: Observation) -> Observation:
        norm = self.block.weights.head_norm if self.output_norm is None else self.output_norm
        return replace(observation, hidden_TD=observation.hidden_TD / norm)

    output_norm: np.ndarray | None = None


class Shifted(_Spoiled):
    """The state of one token earlier."""

    def spoil(self, observation: Observation) -> Observation:
        first = self.last if observation.start else np.zeros_like(observation.hidden_TD[:1])
        hidden_TD = np.concatenate([first, observation.hidden_TD[:-1]])
        self.last = observation.hidden_TD[-1:]
        return replace(observation, hidden_TD=hidden_TD)

    last = np.zeros(0, np.float32)


class Cold(MtpDrafter):
    """The prompt is not shown to the block, apart from its last pair."""

    def observe(self, observations: Many[Observation]) -> None:
        self.block.cache.k_LNGSC[:] *= observations[0].start != 0  # forget what earlier prompts left
        self.block.cache.v_LNGSC[:] *= observations[0].start != 0
        super().observe([self.last_pair(o) if o.start == 0 else o for o in observations])

    def last_pair(self, o: Observation) -> Observation:
        last = len(o.next_token_ids) - 1
        return Observation(o.sequence, o.start + last, o.next_token_ids[last:], o.hidden_TD[last:])


@pytest.mark.parametrize("bug", [BeforeNorm, Shifted, Cold])
def test_known_bugs_lower_acceptance(tiny: offload.LanguageModel, bug: type[MtpDrafter]) -> None:
    """What other runtimes shipped at some time: the state before the norm, off by one, a cache not warmed."""
    assert tiny.mtp is not None
    drafter = bug(tiny.mtp)
    if isinstance(drafter, BeforeNorm):
        drafter.output_norm = tiny.trunk.weights.output_norm
    assert acceptance(tiny, drafter) < acceptance(tiny) - 0.02


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("drafter", ["mtp", "ngram"])
def test_drafts_change_nothing(tiny: offload.LanguageModel, temperature: float, drafter: str) -> None:
    for prompt in PROMPTS[::4]:
        settings = {"max_tokens": 60, "temperature": temperature, "seed": 9, "repetition_penalty": 1.1}
        plain = tiny.generate(prompt["text"], draft=0, **settings).finish()
        for draft in (1, 2, 3, 5):
            result = tiny.generate(prompt["text"], draft=draft, drafter=drafter, **settings).finish()
            assert (result.tokens, result.text) == (plain.tokens, plain.text)


def test_threads_and_chunks_change_no_bit(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    token_ids = tiny.tokenizer.encode(PROMPTS[0]["text"])
    expected = tiny.logits(token_ids)
    assert np.array_equal(offload.load(tiny_path, chunk_size=3).logits(token_ids), expected)
    import experts

    before = experts.num_threads()
    try:
        assert np.array_equal(offload.load(tiny_path, threads=1).logits(token_ids), expected)
    finally:
        experts.set_threads(before)


def test_greedy_tokens_equal_llama_cpp(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    """200 tokens on five prompts; where the two first differ, the two candidates must be a near tie.

    Both round activations to 8 bits, but sum and scale in different orders, so a tie may fall to either side.
    """
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(tiny_path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 1024, 1, False, -1
    server = xllamacpp.Server(params)
    for prompt in PROMPTS[:5]:
        token_ids = tiny.tokenizer.encode(prompt["text"])
        request = {
            "prompt": token_ids,
            "n_predict": 200,
            "temperature": 0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        body = json.dumps({**request, "logit_bias": [[t, False] for t in tiny.tokenizer.end_of_generation]}).encode()
        with urllib.request.urlopen(f"{server.listening_address}/completion", body) as reply:
            theirs: list[int] = json.load(reply)["tokens"]
        never_end = dict.fromkeys(tiny.tokenizer.end_of_generation, float("-inf"))
        ours = tiny.generate(token_ids, max_tokens=200, draft=2, temperature=0, logit_bias=never_end).finish().tokens
        assert len(theirs) == len(ours) == 200
        different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        if different:
            first = different[0]
            logits = tiny.logits(token_ids + ours[:first])[-1]
            assert logits[ours[first]] - logits[theirs[first]] < 0.02, (prompt, first)
    del server
