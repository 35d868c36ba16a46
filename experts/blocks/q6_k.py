"""Q6_K: 256 weights of 6 bits, offset by 32, in 16 groups of 16 with signed 8-bit scales.

Source: ggml, `block_q6_K`: uint8 ql[128]; uint8 qh[64]; int8 scales[16]; half d. Each half of 128 weights has 64 bytes
of ql and 32 of qh: weight i < 64 has its low four bits in the low nibble of ql[i], weight 64 + i in the high one; the
upper two bits of weights i, 32 + i, 64 + i, 96 + i (i < 32) are bits 0-1, 2-3, 4-5, 6-7 of qh[i].
Weight = d * scale * (q - 32).
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES, X256_SCALE, X256_SUMS
from experts.blocks.groups import scaled_products, twice
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_f32, load_i8, load_u8
from experts.vec import (
    I8X16,
    I8X64,
    I16X16,
    I16X32,
    I32X16,
    converter,
    fma,
    literal,
    load_i8x16,
    load_i8x64,
    load_i16x16,
    shuffler,
    splat_f32x16,
    store,
    to_f32x16,
    zeros_f32x16,
)

LOW, HIGH, SCALES, SCALE, BYTES = 0, 128, 192, 208, 210
OFFSET = 32
GEOMETRY = (256, BYTES, X256_BYTES)

_words = converter(I8X64, I16X32, "bitcast")
_bytes = converter(I16X32, I8X64, "bitcast")
_low_then_next = literal(I16X32, [0] * 16 + [2] * 16)
_signed_bytes = converter(I8X16, I32X16, "sext")
_signed_words = converter(I16X16, I32X16, "sext")
_first, _second, _third, _fourth = (shuffler(I32X16, [4 * j + lane // 4 for lane in range(16)]) for j in range(4))


@njit(**INLINE)
def _half(source: int, high: int) -> Any:
    """128 weights as two vectors of 64."""
    low = load_i8x64(source)
    upper = _bytes(_words(twice(high)) >> _low_then_next())  # bits 0-1: weights 0-63, bits 4-5: weights 64-127
    return (low & 15) | ((upper << 4) & 48), ((low >> 4) & 15) | (upper & 48)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of 64 weights, their group scales, the scales that meet the activations' sums, and d."""
    a, b = _half(source + LOW, source + HIGH)
    c, d = _half(source + LOW + 64, source + HIGH + 32)
    scales = _signed_bytes(load_i8x16(source + SCALES))
    words = scales & 0xFFFF
    spread = (_first(words, words), _second(words, words), _third(words, words), _fourth(words, words))
    return (a, b, c, d), spread, scales * -OFFSET, load_f16(source + SCALE)


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    quants, scales, offsets, d = block
    start = offsets * _signed_words(load_i16x16(row + X256_SUMS))
    products = to_f32x16(scaled_products(quants, scales, row, start))
    return fma(products, splat_f32x16(d * load_f32(row + X256_SCALE)), total)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q6_k(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_q6_k


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_q6_k(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            d = load_f16(source + SCALE)
            for weight in range(256):
                half, inner = weight // 128, weight % 128
                low = (load_u8(source + LOW + 64 * half + inner % 64) >> (4 * (inner // 64))) & 15
                high = (load_u8(source + HIGH + 32 * half + inner % 32) >> (2 * (inner // 32))) & 3
                scale = d * np.float32(load_i8(source + SCALES + weight // 16))
                store(target + 4 * weight, scale * np.float32((low | (high << 4)) - OFFSET))
            source += BYTES
            target += 4 * 256
        return 0

    return decode_q6_k
