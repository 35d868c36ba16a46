"""Attention over latent rows, and products head by head, against naive float64; a row is the same in any company."""

from typing import Any

import numpy as np
import pytest
from expert_data import decoded, random_rows
from test_experts_attention import naive, queries, rounded, rounded_queries

import experts
from experts import num_threads, set_threads
from experts.attention import CACHE_TYPES, frame, read
from experts.attention.latent import LatentRows, latent_attention, latent_shape, write_latent

TYPES = tuple(CACHE_TYPES)
FAR = frame.PIECE + 77


class Cached:
    """A cache with random rows of two slots, and the rows."""

    def __init__(self, kind: str, C: int, num: int = FAR):
        shape = latent_shape(CACHE_TYPES[kind], (2,), num, C)
        # whatever stands where nothing was written yet must not matter: all bits set are NaN in every float type
        self.cache = LatentRows(CACHE_TYPES[kind], C, np.full(shape, 255, np.uint8))
        self.x = np.random.default_rng(0).standard_normal((2, num, C)).astype(np.float32)
        for slot in range(2):
            write_latent(self.x[slot], self.cache, np.full(num, slot), np.arange(num))


@pytest.mark.parametrize(("kind", "H", "C"), [(k, *shape) for k in TYPES for shape in ((20, 96), (3, 32), (1, 576))])
def test_attention_equals_the_formula_over_rounded_rows(kind: str, H: int, C: int) -> None:
    data, slots = Cached(kind, C), np.array([0, 1, 1, 0, 0, 1, 0])
    positions = np.array([0, 15, 16, 30, frame.PIECE - 1, frame.PIECE, FAR - 1])
    q, x = queries(len(slots), H, C), rounded(kind, data.x)[:, :, None]
    expected = naive(rounded_queries(kind, q), x, x, slots, positions)
    assert np.abs(latent_attention(q, data.cache, slots, positions) - expected).max() < 5e-6


@pytest.mark.parametrize("kind", TYPES)
def test_a_row_is_the_same_alone_and_among_others(kind: str) -> None:
    """Whatever rows are beside it, in any order, whole or in pieces, on any number of threads."""
    data, rng, T = Cached(kind, 96), np.random.default_rng(2), read.SPLIT_ROWS + 5
    slots, positions = np.sort(rng.integers(0, 2, T)), rng.integers(0, FAR, T)
    positions[:3] = FAR - 1, frame.PIECE, frame.PIECE - 1
    q = queries(T, 20, 96)
    together, threads = latent_attention(q, data.cache, slots, positions), num_threads()
    try:
        for count in {1, threads}:
            set_threads(count)
            order = rng.permutation(T)
            assert np.array_equal(
                latent_attention(q[order], data.cache, slots[order], positions[order]), together[order]
            )
            for t in range(5):
                one = slice(t, t + 1)
                assert np.array_equal(latent_attention(q[one], data.cache, slots[one], positions[one])[0], together[t])
    finally:
        set_threads(threads)


def test_rows_are_kept_once() -> None:
    shape = latent_shape(CACHE_TYPES["f16"], (1,), 64, 576)
    assert np.prod(shape) == 64 * 576 * 2


@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_products_head_by_head(name: str, interleaved: bool) -> None:
    """As `linear` gives for each head alone, bit by bit; `linear` is held to the decoded weights elsewhere."""
    H, N, C = 5, 48, 256
    if interleaved and not experts.can_interleave(experts.FORMATS[name], N):
        pytest.skip("this format has one layout")
    data = np.stack([random_rows(name, N, C, np.random.default_rng(h)) for h in range(H)])
    stack = experts.MatrixStack.from_bytes(experts.FORMATS[name], H, N, C, data)
    x = queries(7, H, C + 64)[:, :, :C]
    used: Any = experts.interleave(stack, np.empty(stack.data.size, np.uint8)) if interleaved else stack
    together = experts.linear_heads(x, used)
    for h in range(H):
        assert np.array_equal(together[:, h], experts.linear(np.ascontiguousarray(x[:, h]), stack[h]))
    assert np.array_equal(experts.linear_heads(x[3:4], used)[0], together[3])
    if name == "F32":
        wide = np.stack([decoded(name, data[h], C) for h in range(H)]).astype(np.float64)
        assert np.abs(together - np.einsum("thc,hnc->thn", x.astype(np.float64), wide)).max() < 1e-4


def test_wrong_arguments_are_named() -> None:
    data = Cached("f32", 32, 40)
    with pytest.raises(ValueError, match=r"x must have shape \(rows, 32\), not \(1, 16\)"):
        write_latent(np.ones((1, 16), np.float32), data.cache, np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match=r"positions 64\.\.64 lie outside 0\.\.63"):
        write_latent(np.ones((1, 32), np.float32), data.cache, np.array([0]), np.array([64]))
    with pytest.raises(ValueError, match=r"must have shape \(rows, 2, 32\)"):
        experts.linear_heads(np.ones((1, 3, 32), np.float32), experts.MatrixStack.from_dense(np.ones((2, 4, 32))))
