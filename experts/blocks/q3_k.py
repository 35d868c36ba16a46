"""Q3_K: 256 weights of 3 bits, offset by 4, in 16 groups of 16 with 6-bit scales, offset by 32.

Source: ggml, `block_q3_K`: uint8 hmask[32]; uint8 qs[64]; uint8 scales[12]; half d. The low two bits of the weights are
as in Q2_K; bit g of hmask[i] is the third bit of weight 32 g + i. The low four bits of scale g are the low nibble of
scales[g], from scale 8 on the high nibble of scales[g - 8]; its upper two bits are bits 2 k and 2 k + 1 (k = g // 4) of
scales[8 + g % 4]. Weight = d * (scale - 32) * (q - 4).
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.groups import adding, bits, first_and_last, offset_products, pairs, products, total
from experts.blocks.lanes import (
    bits_moved,
    bits_of,
    bits_placed,
    chosen_bits,
    halves,
    matrix,
    moved,
    signed_pairs,
)
from experts.build import INLINE
from experts.products.activations import X256_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_small, places
from experts.simd.dot import dot2
from experts.simd.lookup import table_of_64
from experts.simd.memory import load_f16, load_i64, load_u8, load_u32
from experts.simd.permutes import by_permutes
from experts.simd.vec import (
    I8X8,
    I8X16,
    I32X16,
    bytes_of,
    converter,
    load_i8x64,
    shuffler,
    store,
    zeros_i32x16,
)

HIGH, QUANTS, SCALES, SCALE, BYTES = 0, 32, 96, 108, 110
OFFSET, SCALE_OFFSET = 4, 32
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_both = shuffler(I8X8, range(16))
_widened = converter(I8X16, I32X16, "zext")
# Of the low bits of two groups and, in bits 4 and 5, their high bits.
_first = table_of_64([(n & 3) | ((n >> 2) & 4) for n in range(64)])
_second = table_of_64([((n >> 2) & 3) | ((n >> 3) & 4) for n in range(64)])


@njit(**INLINE)
def _scales(source: int) -> Any:
    """The first and the last eight scales, each as the bytes of an int64."""
    low, high = load_i64(source + SCALES), load_u32(source + SCALES + 8)
    first_high = (high & 0x03030303) | (((high >> 2) & 0x03030303) << 32)
    last_high = ((high >> 4) & 0x03030303) | (((high >> 6) & 0x03030303) << 32)
    first = (low & 0x0F0F0F0F0F0F0F0F) | (first_high << 4)
    last = ((low >> 4) & 0x0F0F0F0F0F0F0F0F) | (last_high << 4)
    return first, last


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of weights, the scales of their groups, what meets the activations' sums, and d."""
    w0, w1, w2, w3 = pairs(source + QUANTS)
    h0, h1, h2, h3 = bits(source + HIGH)
    quants = (w0 | (h0 << 2), w1 | (h1 << 2), w2 | (h2 << 2), w3 | (h3 << 2))
    first, last = _scales(source)
    scales = _widened(_both(bytes_of(first), bytes_of(last))) - SCALE_OFFSET
    return (quants, first_and_last(scales & 0xFFFF), (scales * -OFFSET) & 0xFFFF), load_f16(source + SCALE)


@njit(**INLINE)
def _apply(body: Any, row: int) -> Any:
    (w0, w1, w2, w3), (first_16, last_16), offsets = body
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)  # 8 * 7 * 127 fits 16 bits
    last = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    return dot2(dot2(offset_products(offsets, row), first, first_16), last, last_16)


FIELDS = arranged((SCALE, 2, 2), (SCALES, 12, 2), (HIGH, 32, 4), (QUANTS, 64, 4))
_SCALE, _SCALES, _HIGH, _QUANTS = places(FIELDS)


@njit(**INLINE)
def _open_block(source: int, scratch: int) -> Any:
    """Unpacks 16 scales as _scales does, with their offset."""
    packed = source + _SCALES
    first, second, high = load_i8x64(packed), load_i8x64(packed + 64), load_i8x64(packed + 128)
    store(scratch, ((first & 15) | ((high << 4) & 48)) - SCALE_OFFSET)
    store(scratch + 64, ((second & 15) | ((high << 2) & 48)) - SCALE_OFFSET)
    store(scratch + 128, (((first >> 4) & 15) | (high & 48)) - SCALE_OFFSET)
    store(scratch + 192, (((second >> 4) & 15) | ((high >> 2) & 48)) - SCALE_OFFSET)
    d = halves(source + _SCALE)
    return d, d


@njit(**INLINE)
def _vector(source: int, g: int, v: int) -> Any:
    low = bits_of(source + _QUANTS, 8 * (g // 4) + v, 2 * (g % 4), 3)
    return low | bits_moved(source + _HIGH, v, 2 - g, 4)


@njit(**INLINE)
def _vector_of_one(source: int, g: int, v: int) -> Any:
    if not by_permutes():
        return _vector(source, g, v)
    half, j = g // 4, g % 4
    low = load_i8x64(source + _QUANTS + 64 * (8 * half + v))
    if j < 2:  # four high bits into the nibble that is free beside the low bits of two groups
        both = chosen_bits(15, low, moved(source + _HIGH, v, 4 - 4 * half))
        return _first(both) if j == 0 else _second(both)
    both = chosen_bits(0xF0, low, moved(source + _HIGH, v, -4 * half))
    return bits_placed(both, matrix(3, -2 * j) | matrix(4, 2 - j))


@njit(**INLINE)
def _pair(source: int, scratch: int, n: int) -> Any:
    return signed_pairs(scratch + 2 * ROWS * n)


@njit(**INLINE)
def _scale(source: int, scratch: int, i: int) -> Any:
    return (_pair(source, scratch, i // 2) >> (16 * (i % 2))) & 0xFFFF


PANEL = Panel(
    FIELDS,
    _open_block,
    _vector,
    dot_small,
    _pair,
    _scale,
    offset=OFFSET,
    narrow=True,
    sharing=4,
    requested=12288,
    vector_of_one=_vector_of_one,
)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 256):
        d = load_f16(source + SCALE)
        first, last = _scales(source)
        for weight in range(256):
            scales = first if weight < 128 else last
            scale = d * np.float32(((scales >> (weight % 128 // 16 * 8)) & 63) - SCALE_OFFSET)
            low = (load_u8(source + QUANTS + 32 * (weight // 128) + weight % 32) >> (weight % 128 // 32 * 2)) & 3
            high = (load_u8(source + HIGH + weight % 32) >> (weight // 32)) & 1
            store(target + 4 * weight, scale * np.float32((low | (high << 2)) - OFFSET))
        source += BYTES
        target += 4 * 256


NATIVE = Native(decode, adding(_apply), total, _decode_row, GEOMETRY)
