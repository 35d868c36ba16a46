"""Positions that are copied from slot to slot are those that were written, in every kind of cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import offload
from offload.backends.eager.attention import DeviceCache, DeviceLatentCache
from offload.transformer.kv_cache import KvCache, LatentCache
from offload.transformer.rows import Rows

L, N, G, C, S = 2, 3, 2, 32, 70


def contents(cache: Any) -> np.ndarray:
    """Bytes of everything, slots second."""
    if isinstance(cache, KvCache):
        parts = [cache.keys, cache.values]
    elif isinstance(cache, LatentCache):
        parts = [np.stack([layer.rows for layer in cache.layers])]
    else:
        parts = [x.numpy() for x in vars(cache).values() if isinstance(x, torch.Tensor)]
    return np.concatenate([part.reshape(L, N, -1) for part in parts], axis=2)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("num", [1, 16, 37, 70])
def test_what_was_written_alone_is_what_was_copied(kind: str, num: int) -> None:
    """Rows in one slot, copied to another: the same bytes as had they been written there."""
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((num, G, C), np.float32) for _ in range(2))
    host, latent = KvCache(L, N, G, S, C, kind), LatentCache(L, N, S, C, kind)
    for layer in range(L):
        rows = Rows.consecutive(2, 0, [0] * num)
        host.write(layer, rows, k + layer, v - layer)
        latent.write(layer, rows, np.ascontiguousarray(k[:, 0]) + layer)
    device = DeviceCache(torch.device("cpu"), (L, N, G, S, C), kind)
    device_latent = DeviceLatentCache(torch.device("cpu"), (L, N, S, C), kind)
    for x in (device.k_LNGSB, device.v_LNGSB):
        x[:, 2, :, :num] = torch.from_numpy(rng.integers(0, 256, x[:, 2, :, :num].shape, np.uint8))
    device_latent.x_LNSB[:, 2, :num] = torch.from_numpy(
        rng.integers(0, 256, device_latent.x_LNSB[:, 2, :num].shape, np.uint8)
    )
    for cache in (host, latent, device, device_latent):
        before = contents(cache)
        cache.copy_slot(2, 0, num)  # type: ignore[attr-defined]
        after = contents(cache)
        assert before[:, 2].any()
        assert np.array_equal(after[:, 0], before[:, 2])
        assert np.array_equal(after[:, 1:], before[:, 1:])


@pytest.mark.parametrize("options", [{"cache_type": "q8_0"}, {"device": "emulated", "check_backends": True}])
def test_answers_behind_a_copied_prompt(glm_path: Path, options: dict[str, Any]) -> None:
    """Two generations of one prompt in two slots; the second begins where the first has read it, drafts included."""
    model = offload.load(glm_path, slots=2, chunk_size=16, **options)
    prompt = [7 + i * 5 % 100 for i in range(40)]
    first = model.generate(prompt, max_tokens=8, draft=2, temperature=0)
    tokens = [next(iter(first)).token_id]
    second = model.generate(prompt, max_tokens=8, draft=2, temperature=0)
    assert second.result.prompt_reused == 39
    tokens += [event.token_id for event in first]
    assert second.finish().tokens == tokens
    assert second.result.acceptance.by_position == first.result.acceptance.by_position
    crossed = model.backend.ledger.totals()
    assert not crossed["mtp", "down"] + crossed["mtp", "up"]
