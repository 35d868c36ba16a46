"""Decoding is exactly that of the gguf package, on random bytes and on blocks written by hand."""

import numpy as np
import pytest
from expert_data import ALL, decoded, random_rows

from experts import FORMATS, Matrix, dequantize, gather_rows


def matrix_of(name: str, data: np.ndarray, columns: int) -> Matrix:
    return Matrix.from_bytes(FORMATS[name], len(data), columns, data)


@pytest.mark.parametrize("name", ALL)
def test_random_bytes(name: str) -> None:
    columns = 768 if FORMATS[name].block_weights > 1 else 37
    data = random_rows(name, 9, columns, np.random.default_rng(1))
    expected = decoded(name, data, columns)
    np.testing.assert_array_equal(dequantize(matrix_of(name, data, columns)), expected)
    np.testing.assert_array_equal(dequantize(matrix_of(name, data, columns), 2, 5), expected[2:5])
    assert dequantize(matrix_of(name, data, columns), 4, 4).shape == (0, columns)


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


def test_q8_0_by_hand() -> None:
    quants = np.arange(-16, 16, dtype=np.int8)
    data = np.frombuffer(half(0.5) + quants.tobytes(), np.uint8)[None]
    np.testing.assert_array_equal(dequantize(matrix_of("Q8_0", data, 32))[0], quants * np.float32(0.5))


def test_q4_0_by_hand() -> None:
    # byte i: weight i is i, weight 16 + i is 15 - i, both less 8
    data = np.frombuffer(half(2.0) + bytes(i | (15 - i) << 4 for i in range(16)), np.uint8)[None]
    expected = [2.0 * (i - 8) for i in range(16)] + [2.0 * (7 - i) for i in range(16)]
    np.testing.assert_array_equal(dequantize(matrix_of("Q4_0", data, 32))[0], np.float32(expected))


def test_q4_k_by_hand() -> None:
    # d = 1, dmin = 0.5; scales 1..8, the last with an upper bit set: 8 + 32; minimums all 4; all quants 3 and 5
    scales = [1, 2, 3, 4, 5, 6, 7, 40]
    low = [scales[j] | (scales[j + 4] >> 4) << 6 for j in range(4)]
    minimums = [4] * 4
    high = [(scales[j + 4] & 15) | 4 << 4 for j in range(4)]
    block = half(1.0) + half(0.5) + bytes(low + minimums + high) + bytes([3 | 5 << 4] * 128)
    row = dequantize(matrix_of("Q4_K", np.frombuffer(block, np.uint8)[None], 256))[0]
    expected = [scale * (3 if group % 2 == 0 else 5) - 2.0 for group, scale in enumerate(scales) for _ in range(32)]
    np.testing.assert_array_equal(row, np.float32(expected))


def test_q6_k_by_hand() -> None:
    # quants all zero mean -32; scales -8..7
    block = bytes(192) + np.arange(-8, 8, dtype=np.int8).tobytes() + half(0.25)
    row = dequantize(matrix_of("Q6_K", np.frombuffer(block, np.uint8)[None], 256))[0]
    np.testing.assert_array_equal(row, np.repeat(np.arange(-8, 8, dtype=np.float32), 16) * np.float32(-8.0))


def test_mxfp4_has_every_exponent() -> None:
    data = np.full((253, 17), 0xF7, np.uint8)  # 12 and -12, finite up to 2**(252 - 128)
    data[:, 0] = np.arange(253)
    np.testing.assert_array_equal(dequantize(matrix_of("MXFP4", data, 32)), decoded("MXFP4", data, 32))
    assert dequantize(matrix_of("MXFP4", data, 32), 0, 1)[0, 0] == 12 * 2.0**-128


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_special_floats(name: str) -> None:
    bits = np.array([[0, 1, 0x8001, 0x03FF, 0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0x8000, 0x7F80, 0x7FC0]], np.uint16)
    row = dequantize(matrix_of(name, bits.view(np.uint8), bits.shape[1]))
    expected = bits.view(np.float16).astype(np.float32) if name == "F16" else (bits.astype(np.uint32) << 16).view("f4")
    np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(np.signbit(row), np.signbit(expected))


def test_gather_rows_follows_the_ids() -> None:
    data = random_rows("Q6_K", 11, 256, np.random.default_rng(2))
    matrix = matrix_of("Q6_K", data, 256)
    ids = np.array([10, 0, 3, 3, 7], np.int64)
    np.testing.assert_array_equal(gather_rows(matrix, ids), decoded("Q6_K", data, 256)[ids])
    assert gather_rows(matrix, ids[:0]).shape == (0, 256)
    with pytest.raises(ValueError, match=r"0\.\.10, found 11"):
        gather_rows(matrix, np.array([0, 11], np.int64))
    with pytest.raises(ValueError, match=r"0\.\.10, found -1"):
        gather_rows(matrix, np.array([-1], np.int64))
    with pytest.raises(ValueError, match="int64"):
        gather_rows(matrix, np.array([1], np.int32))
    with pytest.raises(ValueError, match=r"\[3, 12\)"):
        dequantize(matrix, 3, 12)
