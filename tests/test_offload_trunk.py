"""The trunk against transformers' Glm4MoeForCausalLM in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from glm_files import VOCAB_SIZE, random_glm

import offload
from offload.transformer.kv_cache import CACHE_TYPES


def log_probabilities(logits: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("chunk_size", [64, 7, 1])
def test_log_probabilities_equal_transformers(tmp_path: Path, qk_norm: bool, chunk_size: int) -> None:
    glm = random_glm(qk_norm, seed=chunk_size)
    model = offload.load(glm.file.write(tmp_path / "glm.gguf"), cache_type="f32", chunk_size=chunk_size)
    token_ids = np.random.default_rng(chunk_size).integers(0, VOCAB_SIZE, 60)
    with torch.no_grad():
        expected = glm.trunk(torch.from_numpy(token_ids)[None]).logits[0].numpy()
    difference = (log_probabilities(model.logits(token_ids)) - log_probabilities(expected)).abs().max()
    assert difference <= 3e-5


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_chunks_change_no_bit(glm_path: Path, cache_type: str) -> None:
    token_ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 50)
    whole = offload.load(glm_path, cache_type=cache_type).logits(token_ids)
    for chunk_size in (1, 2, 3, 5, 8, 49):
        chunked = offload.load(glm_path, cache_type=cache_type, chunk_size=chunk_size)
        assert np.array_equal(chunked.logits(token_ids), whole)


@pytest.mark.parametrize(("cache_type", "most"), [("f16", 0.01), ("bf16", 0.1), ("q8_0", 0.2)])
def test_rounded_caches_stay_close(glm_path: Path, cache_type: str, most: float) -> None:
    """Measured on this model: 0.003, 0.025, 0.08."""
    token_ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 50)
    some, single = (offload.load(glm_path, cache_type=kind).logits(token_ids) for kind in (cache_type, "f32"))
    assert not np.array_equal(some, single)
    assert (log_probabilities(some) - log_probabilities(single)).abs().max() < most
