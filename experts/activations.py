"""How a row of activations is encoded before it meets weights of some format.

| encoding | unit | layout of a unit |
|---|---|---|
| f32 | 16 columns, 64 bytes | float32, the last unit padded with zeros |
| int8x32 | 2 blocks of 32, 128 bytes | bytes q + 128; then 16 lanes of scales, 8 per block |
| int8x256 | 256 columns, 384 bytes | bytes q; sums of 16 as int16; scale; 16 lanes of scale * sum |

In each block scale = max|x| / 127 and q = x * (127 / max|x|) rounded half to even, as ggml's Q8_0 and Q8_K up to the
sign of the scale. A block whose maximum is below 2**-100 counts as zero. A NaN makes its block NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cfunc, njit, types

from experts.build import INLINE, KERNEL, keyed
from experts.memory import load_f32
from experts.vec import (
    F32X16,
    I8X16,
    I32X16,
    bits_f32,
    converter,
    f32_bits,
    greatest_f32,
    largest,
    load_f32x16,
    store,
    total_i32,
    zeros_f32x16,
)

X32_COLUMNS, X32_BYTES = 64, 128
X32_QUANTS, X32_SCALES = 0, 64

X256_COLUMNS, X256_BYTES = 256, 384
X256_QUANTS, X256_SUMS, X256_SCALE, X256_SCALED_SUMS = 0, 256, 288, 320

F32_COLUMNS, F32_BYTES = 16, 64


@dataclass(frozen=True)
class Encoding:
    """Size of the unit in which rows are encoded."""

    unit_columns: int
    unit_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of an encoded row."""
        return -(-columns // self.unit_columns) * self.unit_bytes


ENCODINGS = {
    "f32": Encoding(F32_COLUMNS, F32_BYTES),
    "int8x32": Encoding(X32_COLUMNS, X32_BYTES),
    "int8x256": Encoding(X256_COLUMNS, X256_BYTES),
}

# encode(source, target, columns): one row of float32.
ENCODE = types.int64(*[types.int64] * 3)

_TINY = np.float32(2.0**-100)
# Adding 1.5 * 2**23 rounds to an integer, half to even, and leaves it in the low bits.
_ROUND = np.float32(12582912.0)
_ROUND_BITS = 0x4B400000
_ABSOLUTE = 0x7FFFFFFF

_to_bytes = converter(I32X16, I8X16, "trunc")
_to_floats = converter(I32X16, F32X16, "sitofp")


@njit(**INLINE)
def _peak(source: int, vectors: int) -> Any:
    """max|x| over 16 * vectors columns."""
    peak = zeros_f32x16()
    for i in range(vectors):
        peak = largest(peak, bits_f32(f32_bits(load_f32x16(source + 64 * i)) & _ABSOLUTE))
    return greatest_f32(peak)


@njit(**INLINE)
def _scale_and_inverse(peak: float) -> Any:
    if peak < _TINY:
        return np.float32(0.0), np.float32(0.0)
    return peak / np.float32(127.0), np.float32(127.0) / peak


@njit(**INLINE)
def _rounded(source: int, inverse: float) -> Any:
    """16 columns as integers in i32 lanes."""
    return f32_bits(load_f32x16(source) * inverse + _ROUND) - _ROUND_BITS


@njit(**INLINE)
def _encode_block_of_32(source: int, target: int, half: int) -> None:
    """One block into the lower (0) or upper (1) half of a unit."""
    scale, inverse = _scale_and_inverse(_peak(source, 2))
    quants = target + X32_QUANTS + 32 * half
    store(quants, _to_bytes(_rounded(source, inverse) + 128))
    store(quants + 16, _to_bytes(_rounded(source + 64, inverse) + 128))
    for lane in range(8):
        store(target + X32_SCALES + 32 * half + 4 * lane, scale)


@njit(**INLINE)
def encode_int8x32(source: int, target: int, columns: int) -> int:
    for _ in range(columns // X32_COLUMNS):
        _encode_block_of_32(source, target, 0)
        _encode_block_of_32(source + 128, target, 1)
        source += 4 * X32_COLUMNS
        target += X32_BYTES
    if columns % X32_COLUMNS:
        _encode_block_of_32(source, target, 0)
        store(target + X32_SCALES + 32, np.int64(0))  # the missing block: any quants, scale zero
        store(target + X32_SCALES + 40, np.int64(0))
        store(target + X32_SCALES + 48, np.int64(0))
        store(target + X32_SCALES + 56, np.int64(0))
    return 0


@njit(**INLINE)
def encode_int8x256(source: int, target: int, columns: int) -> int:
    for _ in range(columns // X256_COLUMNS):
        scale, inverse = _scale_and_inverse(_peak(source, 16))
        store(target + X256_SCALE, scale)
        for i in range(16):
            quants = _rounded(source + 64 * i, inverse)
            total = total_i32(quants)
            store(target + X256_QUANTS + 16 * i, _to_bytes(quants))
            store(target + X256_SUMS + 2 * i, np.int16(total))
            store(target + X256_SCALED_SUMS + 4 * i, scale * np.float32(total))
        source += 4 * X256_COLUMNS
        target += X256_BYTES
    return 0


@njit(**INLINE)
def encode_f32(source: int, target: int, columns: int) -> int:
    padded = (columns + F32_COLUMNS - 1) // F32_COLUMNS * F32_COLUMNS
    for _ in range(columns // F32_COLUMNS):
        store(target, load_f32x16(source))
        source += 64
        target += 64
    for i in range(padded - columns // F32_COLUMNS * F32_COLUMNS):
        inside = i < columns % F32_COLUMNS
        store(target + 4 * i, load_f32(source + 4 * i) if inside else np.float32(0.0))
    return 0


def make_encoder(encoding: str, build: int) -> Any:
    """The compiled encoder of one row."""
    if encoding == "int8x32":

        @cfunc(ENCODE, **KERNEL)
        def to_int8x32(source: int, target: int, columns: int) -> Any:
            keyed(build)
            return encode_int8x32(source, target, columns)

        return to_int8x32
    if encoding == "int8x256":

        @cfunc(ENCODE, **KERNEL)
        def to_int8x256(source: int, target: int, columns: int) -> Any:
            keyed(build)
            return encode_int8x256(source, target, columns)

        return to_int8x256

    @cfunc(ENCODE, **KERNEL)
    def to_f32(source: int, target: int, columns: int) -> Any:
        keyed(build)
        return encode_f32(source, target, columns)

    return to_f32
