"""Formats with codebooks: every entry of every codebook, and rows whose last unit has one to four blocks."""

import numpy as np
import pytest
from expert_data import decoded, random_rows, rounded

from experts import FORMATS, Matrix, dequantize, linear

NAMES = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")


@pytest.mark.parametrize("name", NAMES)
def test_every_entry(name: str) -> None:
    """120 rows hold 19200 random numbers or more, of at most 2048: each many times, with many signs and scales."""
    data = random_rows(name, 120, 1280, np.random.default_rng(21))
    matrix = Matrix.from_bytes(FORMATS[name], len(data), 1280, data)
    np.testing.assert_array_equal(dequantize(matrix), decoded(name, data, 1280))


@pytest.mark.parametrize("columns", [1024, 1280, 1536, 1792])
@pytest.mark.parametrize("name", NAMES)
def test_units_of_four_blocks(name: str, columns: int) -> None:
    data = random_rows(name, 33, columns, np.random.default_rng(22))
    matrix = Matrix.from_bytes(FORMATS[name], len(data), columns, data)
    x = np.random.default_rng(23).standard_normal((7, columns)).astype(np.float32)
    together = linear(x, matrix)
    exact_x, dense = rounded(name, x), decoded(name, data, columns).astype(np.float64)
    # Each block's product is an exact integer; what is rounded are sums of at most seven blocks.
    assert np.all(np.abs(together - exact_x @ dense.T) <= 1e-6 * (np.abs(exact_x) @ np.abs(dense).T))
    for size in (1, 2, 3, 4, 5):
        split = np.concatenate([linear(x[i : i + size], matrix) for i in range(0, len(x), size)])
        np.testing.assert_array_equal(split, together)
