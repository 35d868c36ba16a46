"""The trunk against transformers' Glm4MoeForCausalLM in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from glm_files import VOCAB_SIZE, random_glm

import offload


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


def test_chunks_change_no_bit(glm_path: Path) -> None:
    token_ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 50)
    whole = offload.load(glm_path).logits(token_ids)
    for chunk_size in (1, 2, 3, 5, 8, 49):
        assert np.array_equal(offload.load(glm_path, chunk_size=chunk_size).logits(token_ids), whole)


def test_half_precision_cache_stays_close(glm_path: Path) -> None:
    token_ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 50)
    half, single = (offload.load(glm_path, cache_type=kind).logits(token_ids) for kind in ("f16", "f32"))
    assert not np.array_equal(half, single)
    assert (log_probabilities(half) - log_probabilities(single)).abs().max() < 0.02
