"""linear against float64, row by row the same bits in every company."""

import numpy as np
import pytest
from expert_data import ALL, FLOATS, FP8, QUANTIZED, SMALL_BLOCKS, decoded, random_rows, rounded

from experts import FORMATS, Matrix, linear, num_threads, set_threads

ODD_COLUMNS = [("F32", 1), ("F32", 37), ("F16", 15), ("BF16", 33)]
ODD_COLUMNS += [(name, columns) for name in SMALL_BLOCKS for columns in (32, 96, 1408)]


def random_matrix(name: str, rows: int, columns: int, seed: int) -> tuple[Matrix, np.ndarray]:
    data = random_rows(name, rows, columns, np.random.default_rng(seed))
    return Matrix.from_bytes(FORMATS[name], rows, columns, data), decoded(name, data, columns)


def assert_near(result: np.ndarray, expected: np.ndarray, terms: np.ndarray) -> None:
    """Float32 accumulation in 16 lanes: the error is bounded by a few ulp of the sum of magnitudes."""
    assert np.all(np.abs(result - expected) <= 2e-6 * terms + 1e-30)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (7, 512), (65, 768), (131, 256)])
def test_against_float64(name: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    matrix, dense = random_matrix(name, rows, columns, rows)
    x = rng.standard_normal((13, columns)).astype(np.float32)
    bias = rng.standard_normal(rows).astype(np.float32)
    exact_x = rounded(name, x)
    expected = exact_x @ dense.astype(np.float64).T
    # minimums and scales are separate terms, so magnitudes are taken per group of the largest format: the whole weight
    terms = np.abs(exact_x) @ (np.abs(dense.astype(np.float64)) + np.abs(dense).max()).T
    assert_near(linear(x, matrix), expected, terms)
    assert_near(linear(x, matrix, bias), expected + bias, terms + np.abs(bias))


@pytest.mark.parametrize(("name", "columns"), ODD_COLUMNS)
def test_odd_columns(name: str, columns: int) -> None:
    matrix, dense = random_matrix(name, 5, columns, 3)
    x = np.random.default_rng(4).standard_normal((3, columns)).astype(np.float32)
    exact_x = rounded(name, x)
    terms = np.abs(exact_x) @ np.abs(dense.astype(np.float64)).T + 1e-3
    assert_near(linear(x, matrix), exact_x @ dense.astype(np.float64).T, terms)


@pytest.mark.parametrize("name", QUANTIZED)
def test_rounding_of_activations_costs_one_percent(name: str) -> None:
    matrix, dense = random_matrix(name, 64, 1024, 5)
    x = np.random.default_rng(6).standard_normal((4, 1024)).astype(np.float32)
    exact = x.astype(np.float64) @ dense.astype(np.float64).T
    error = linear(x, matrix) - exact
    # The minimums of Q4_K and Q5_K make weights with a large mean, against which the rounding error stays small.
    assert np.sqrt(np.mean(error**2)) < 0.015 * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_depend_on_company(name: str) -> None:
    columns = 480 if name in SMALL_BLOCKS else 512  # where blocks allow it, the last unit is cut
    matrix, _ = random_matrix(name, 70, columns, 7)
    x = np.random.default_rng(8).standard_normal((13, columns)).astype(np.float32)
    together = linear(x, matrix)
    for size in (1, 2, 3, 4, 5, 6, 7, 12):
        split = np.concatenate([linear(x[i : i + size], matrix) for i in range(0, 13, size)])
        np.testing.assert_array_equal(split, together)
    order = np.random.default_rng(9).permutation(13)
    np.testing.assert_array_equal(linear(x[order], matrix), together[order])


@pytest.mark.parametrize("name", [*FLOATS, FP8])
def test_weights_do_not_depend_on_their_tile(name: str) -> None:
    """Rows of weights one by one, two by two, ...: alone, in a tile, or left over behind the last one."""
    columns = 384 if name == FP8 else 300  # not a multiple of what the loop takes in a step
    matrix, _ = random_matrix(name, 13, columns, 21)
    x = np.random.default_rng(22).standard_normal((6, columns)).astype(np.float32)
    for T in range(1, 7):
        together = linear(x[:T], matrix)
        for size in (1, 2, 5):
            for row in range(0, 13 - size + 1, size):
                part = Matrix.from_bytes(matrix.format, size, columns, matrix.data[row : row + size])
                np.testing.assert_array_equal(linear(x[:T], part), together[:, row : row + size])


def test_threads_do_not_change_bits() -> None:
    matrix, _ = random_matrix("Q4_K", 6000, 512, 10)  # large enough for two threads
    x = np.random.default_rng(11).standard_normal((9, 512)).astype(np.float32)
    before = num_threads()
    results = []
    try:
        for threads in range(1, before + 1):
            set_threads(threads)
            results.append(linear(x, matrix))
    finally:
        set_threads(before)
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("name", ALL)
def test_read_only_bytes_at_odd_addresses(name: str) -> None:
    matrix, _ = random_matrix(name, 6, 256, 12)
    raw = b"x" * 3 + matrix.data.tobytes()
    shifted = Matrix.from_bytes(matrix.format, 6, 256, np.frombuffer(raw, np.uint8)[3:])
    assert not shifted.data.flags.writeable
    x = np.random.default_rng(13).standard_normal((2, 256)).astype(np.float32)
    np.testing.assert_array_equal(linear(x, shifted), linear(x, matrix))


def test_strided_rows() -> None:
    matrix, _ = random_matrix("Q8_0", 10, 64, 15)
    wide = np.random.default_rng(16).standard_normal((4, 100)).astype(np.float32)
    expected = linear(np.ascontiguousarray(wide[:, 9:73]), matrix)
    np.testing.assert_array_equal(linear(wide[:, 9:73], matrix), expected)
    assert linear(wide[:0, :64], matrix).shape == (0, 10)


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K", "Q6_K"])
def test_zeros_denormals_and_nan(name: str) -> None:
    matrix, _ = random_matrix(name, 4, 512, 17)
    x = np.zeros((6, 512), np.float32)
    x[1] = 1e-42
    x[2, 5] = np.nan
    x[3, 7] = np.inf
    x[4] = 1e38
    x[5, 300:] = 1.0
    result = linear(x, matrix)
    assert np.all(result[0] == 0)
    assert np.all(np.abs(result[1]) < 1e-35)
    assert np.all(np.isnan(result[2]))
    assert not np.any(np.isfinite(result[3]))
    assert np.all(np.isfinite(result[5]))


def test_wrong_arguments() -> None:
    matrix, _ = random_matrix("F32", 4, 8, 18)
    x = np.zeros((2, 8), np.float32)
    with pytest.raises(ValueError, match="float32"):
        linear(x.astype(np.float64), matrix)
    with pytest.raises(ValueError, match=r"\(rows, 8\), not \(2, 7\)"):
        linear(x[:, :7], matrix)
    with pytest.raises(ValueError, match="contiguous rows"):
        linear(np.zeros((8, 2), np.float32).T, matrix)
    with pytest.raises(ValueError, match=r"bias must be float32 of shape \(4,\)"):
        linear(x, matrix, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="bytes are needed"):
        Matrix.from_bytes(FORMATS["F32"], 4, 8, np.zeros(100, np.uint8))
    with pytest.raises(ValueError, match="contiguous uint8"):
        Matrix(FORMATS["F32"], 4, 8, np.zeros((4, 64), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="threads must be 1 to"):
        set_threads(0)


def test_float_formats_need_no_rounding() -> None:
    """Float weights times float rows agree with numpy's float32 product as closely as float32 can."""
    for name in FLOATS:
        matrix, dense = random_matrix(name, 33, 300, 19)
        x = np.random.default_rng(20).standard_normal((3, 300)).astype(np.float32)
        np.testing.assert_allclose(linear(x, matrix), x @ dense.T, rtol=1e-5, atol=1e-5)
