"""Q6_K: 256 weights of 6 bits, offset by 32, in 16 groups of 16 with signed 8-bit scales.

Source: ggml, `block_q6_K`: uint8 ql[128]; uint8 qh[64]; int8 scales[16]; half d. Each half of 128 weights has 64 bytes
of ql and 32 of qh: weight i < 64 has its low four bits in the low nibble of ql[i], weight 64 + i in the high one; the
upper two bits of weights i, 32 + i, 64 + i, 96 + i (i < 32) are bits 0-1, 2-3, 4-5, 6-7 of qh[i].
Weight = d * scale * (q - 32).
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.groups import adding, as_bytes, as_words, first_and_last, offset_products, pairs, products, total
from experts.blocks.lanes import bits_moved, halves, nibble, paired, signed_bytes
from experts.build import INLINE
from experts.products.activations import X256_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_small, places
from experts.simd.dot import dot2
from experts.simd.memory import load_f16, load_i8, load_u8
from experts.simd.vec import (
    I8X16,
    I32X16,
    I64X8,
    converter,
    literal,
    load_i8x16,
    load_i8x64,
    shuffler,
    store,
    zeros_i32x16,
)

LOW, HIGH, SCALES, SCALE, BYTES = 0, 128, 192, 208, 210
OFFSET = 32
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_signed_bytes = converter(I8X16, I32X16, "sext")
# Word j of the groups' low bits: per half two groups in low nibbles, the same bytes again for the high nibbles.
_low_0, _low_1, _low_2, _low_3 = (shuffler(I64X8, [j, 4 + j, j, 4 + j, 8 + j, 12 + j, 8 + j, 12 + j]) for j in range(4))
_low_shift = literal(I64X8, [0, 0, 4, 4] * 2)


@njit(**INLINE)
def _joined(low: Any, high: Any) -> Any:
    """Weights from the words that hold their low four bits, and from their upper two bits."""
    return (as_bytes(low >> _low_shift()) & 15) | (high << 4)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of weights, the scales of their groups, what meets the activations' sums, and d."""
    a, b = as_words(load_i8x64(source + LOW)), as_words(load_i8x64(source + LOW + 64))
    h0, h1, h2, h3 = pairs(source + HIGH)
    quants = (
        _joined(_low_0(a, b), h0),
        _joined(_low_1(a, b), h1),
        _joined(_low_2(a, b), h2),
        _joined(_low_3(a, b), h3),
    )
    scales = _signed_bytes(load_i8x16(source + SCALES))
    return (quants, first_and_last(scales & 0xFFFF), (scales * -OFFSET) & 0xFFFF), load_f16(source + SCALE)


@njit(**INLINE)
def _apply(body: Any, row: int) -> Any:
    (w0, w1, w2, w3), (first_16, last_16), offsets = body
    zero = zeros_i32x16()
    sums = offset_products(offsets, row)
    sums = dot2(sums, products(zero, w0, row, 0), first_16)  # 4 * 63 * 127 fits 16 bits
    sums = dot2(sums, products(zero, w1, row, 1), first_16)
    sums = dot2(sums, products(zero, w2, row, 2), last_16)
    return dot2(sums, products(zero, w3, row, 3), last_16)


# In each half 4 bytes of high bits, then the 8 bytes of low bits of the same weights.
FIELDS = arranged(
    (SCALE, 2, 2),
    (SCALES, 16, 1),
    ((HIGH, 32, 4), (LOW, 32, 4), (LOW + 32, 32, 4)),
    ((HIGH + 32, 32, 4), (LOW + 64, 32, 4), (LOW + 96, 32, 4)),
)
_SCALE, _SCALES, _HIGH, *_ = places(FIELDS)


@njit(**INLINE)
def _open_block(source: int, scratch: int) -> Any:
    d = halves(source + _SCALE)
    return d, d


@njit(**INLINE)
def _vector(source: int, g: int, v: int) -> Any:
    at = 3 * (8 * (g // 4) + v)
    return nibble(source + _HIGH, at + 1 + g % 2, g % 4 // 2) | bits_moved(source + _HIGH, at, 4 - 2 * (g % 4), 48)


@njit(**INLINE)
def _scale(source: int, scratch: int, i: int) -> Any:
    return signed_bytes(source + _SCALES + ROWS * i)


@njit(**INLINE)
def _pair(source: int, scratch: int, n: int) -> Any:
    return paired(_scale(source, scratch, 2 * n), _scale(source, scratch, 2 * n + 1))


PANEL = Panel(
    FIELDS, _open_block, _vector, dot_small, _pair, _scale, offset=OFFSET, sharing=4, strips_from=16, pass_rows=4
)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
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


NATIVE = Native(decode, adding(_apply), total, _decode_row, GEOMETRY)
