"""Panels of interleaved rows hold the same weights and give the same bits as rows one after the other."""

from itertools import pairwise

import numpy as np
import pytest
from expert_data import QUANTIZED, random_rows

import experts
from experts import FORMATS, ExpertLayer, Matrix, MatrixStack, can_interleave, interleave, kernels, linear, moe_ffn

INTERLEAVED = [name for name in QUANTIZED if can_interleave(FORMATS[name], 16)]


def both_layouts(name, rows, columns, rng):
    matrix = Matrix.from_bytes(FORMATS[name], rows, columns, random_rows(name, rows, columns, rng))
    return matrix, interleave(matrix, np.empty(matrix.data.size, np.uint8))


def test_formats_of_published_files_have_panels():
    assert {"Q8_0", "Q4_0", "Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL"} <= set(INTERLEAVED)
    assert not can_interleave(FORMATS["Q4_K"], 24)
    assert not can_interleave(FORMATS["F16"], 16)


@pytest.mark.parametrize("name", INTERLEAVED)
def test_same_bits(name):
    """Whatever the number of rows; 1408 columns end in a cut group of blocks."""
    rng = np.random.default_rng(7)
    columns = 1408 if FORMATS[name].block_weights == 32 else 512
    matrix, panels = both_layouts(name, 48, columns, rng)
    num_rows = 7 if name in ("Q4_K", "Q8_0") else 2  # each number of rows up to six has a kernel of its own
    x = rng.standard_normal((num_rows, columns)).astype(np.float32)
    expected = linear(x, matrix)
    np.testing.assert_array_equal(linear(x, panels), expected)
    np.testing.assert_array_equal(linear(x[1:2], panels), expected[1:2])


@pytest.mark.parametrize("name", INTERLEAVED)
def test_it_is_a_permutation_of_bytes(name):
    """Fields and pieces cover a block once, so numpy's transposition gives the same panels."""
    rng = np.random.default_rng(8)
    fmt, rows, blocks = FORMATS[name], 32, 9
    data = rng.integers(0, 256, (rows, blocks * fmt.block_bytes), dtype=np.uint8)
    matrix = Matrix.from_bytes(fmt, rows, blocks * fmt.block_weights, data)
    order = [b for c in range(8) for b in range(c, blocks, 8)] if fmt.block_weights == 32 else list(range(blocks))
    cut = data.reshape(rows // 16, 16, blocks, fmt.block_bytes)[:, :, order]
    expected, filled = (
        np.zeros((rows // 16, blocks, 16 * fmt.block_bytes), np.uint8),
        np.zeros(16 * fmt.block_bytes, int),
    )
    for offset, num_bytes, piece, place, step in kernels.panel(name).fields:
        for i in range(num_bytes // piece):
            begin, here = offset + piece * i, slice(place + step * i, place + step * i + 16 * piece)
            pieces = cut[..., begin : begin + piece].transpose(0, 2, 1, 3)
            expected[..., here] = pieces.reshape(rows // 16, blocks, -1)
            filled[here] += 1
    assert (filled == 1).all()
    np.testing.assert_array_equal(interleave(matrix, np.empty(data.size, np.uint8)).data, expected.reshape(rows, -1))


def test_experts_in_panels():
    """Mixed layouts in one layer, one and two threads, any grouping."""
    rng = np.random.default_rng(9)
    stacks, panels = [], []
    for name, rows, columns in (("Q4_K", 64, 256), ("Q6_K", 64, 256), ("Q5_0", 256, 64)):
        stack = MatrixStack.from_bytes(FORMATS[name], 5, rows, columns, random_rows(name, 5 * rows, columns, rng))
        stacks.append(stack)
        panels.append(interleave(stack, np.empty(stack.data.size, np.uint8)))
    x = rng.standard_normal((9, 256)).astype(np.float32)
    ids = np.array([rng.permutation(5)[:3] for _ in range(9)], np.int32)
    weights = rng.random((9, 3), np.float32)
    expected = moe_ffn(x, ids, weights, ExpertLayer(*stacks))
    before = experts.num_threads()
    try:
        for threads in {1, before}:
            experts.set_threads(threads)
            np.testing.assert_array_equal(moe_ffn(x, ids, weights, ExpertLayer(*panels)), expected)
    finally:
        experts.set_threads(before)
    mixed = ExpertLayer(panels[0], stacks[1], panels[2])
    np.testing.assert_array_equal(moe_ffn(x[4:5], ids[4:5], weights[4:5], mixed), expected[4:5])


def test_pieces_are_reported_in_order(monkeypatch):
    monkeypatch.setattr("experts.layout.PIECE_BYTES", 5000)
    rng = np.random.default_rng(10)
    matrix = Matrix.from_bytes(FORMATS["Q8_0"], 96, 64, random_rows("Q8_0", 96, 64, rng))
    pieces = []
    interleave(matrix, np.empty(matrix.data.size, np.uint8), lambda first, last: pieces.append((first, last)))
    assert len(pieces) > 1
    assert (pieces[0][0], pieces[-1][1]) == (0, matrix.data.size)
    assert all(left[1] == right[0] for left, right in pairwise(pieces))


def test_what_cannot_be_interleaved():
    rng = np.random.default_rng(11)
    matrix, panels = both_layouts("Q4_K", 16, 256, rng)
    short = Matrix.from_bytes(FORMATS["Q4_K"], 24, 256, random_rows("Q4_K", 24, 256, rng))
    with pytest.raises(ValueError, match="24 rows of Q4_K"):
        interleave(short, np.empty(short.data.size, np.uint8))
    with pytest.raises(ValueError, match="one after the other"):
        interleave(panels, np.empty(panels.data.size, np.uint8))
    with pytest.raises(ValueError, match="2304 contiguous bytes"):
        interleave(matrix, np.empty(7, np.uint8))
    with pytest.raises(ValueError, match="cannot be looked up"):
        experts.gather_rows(panels, np.zeros(1, np.int64))
