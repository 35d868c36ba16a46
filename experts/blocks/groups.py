"""What the K-quants share: 256 weights as four vectors of 64, with integer scales of their groups.

The products of 64 weights with 64 activations are 16 lanes of four products each, which fit 16 bits; each lane belongs
to one group, so scaling is one multiply-add of lanes.
"""

from typing import Any

from numba import njit

from experts.activations import X256_QUANTS, X256_SCALE, X256_SCALED_SUMS
from experts.build import INLINE
from experts.dot import dot2, dot4
from experts.memory import load_f32, load_u32
from experts.vec import (
    I8X8,
    I8X32,
    I8X64,
    I16X32,
    I32X8,
    bytes_of,
    converter,
    fma,
    literal,
    load_f32x16,
    load_i8x32,
    load_i8x64,
    shuffler,
    splat_f32x16,
    to_f32x16,
    zeros_i32x16,
)

_words = converter(I8X64, I16X32, "bitcast")
_bytes = converter(I16X32, I8X64, "bitcast")
_widened = converter(I8X8, I32X8, "zext")
_twice = shuffler(I8X32, [*range(32), *range(32)])
_low_then_high = literal(I16X32, [0] * 16 + [4] * 16)
_low_then_next = literal(I16X32, [0] * 16 + [1] * 16)
_groups_01, _groups_23, _groups_45, _groups_67 = (shuffler(I32X8, [j] * 8 + [j + 1] * 8) for j in (0, 2, 4, 6))
_each_group = shuffler(I32X8, [lane // 2 for lane in range(16)])


@njit(**INLINE)
def scales_and_minimums(source: int) -> Any:
    """12 packed bytes as two int64 of eight 6-bit numbers, one a byte.

    Bytes 0-3 and 4-7 hold the first four scales and minimums; bytes 8-11 the low nibbles of the others (scale low,
    minimum high), whose upper two bits are the upper two bits of bytes 0-7.
    """
    a, b, c = load_u32(source), load_u32(source + 4), load_u32(source + 8)
    scales = (c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)
    minimums = ((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)
    return (a & 0x3F3F3F3F) | (scales << 32), (b & 0x3F3F3F3F) | (minimums << 32)


@njit(**INLINE)
def nibbles(source: int) -> Any:
    """32 bytes: their low nibbles, then their high nibbles."""
    return _bytes(_words(twice(source)) >> _low_then_high()) & 15


@njit(**INLINE)
def twice(source: int) -> Any:
    """32 bytes, and the same again."""
    packed = load_i8x32(source)
    return _twice(packed, packed)


@njit(**INLINE)
def bit_pairs(source: int) -> Any:
    """32 bytes, and the same shifted right by one; only bits that stay in their byte may be used."""
    return _bytes(_words(twice(source)) >> _low_then_next())


@njit(**INLINE)
def group_scales(scales: int) -> Any:
    """Eight scales of 32 weights, spread over the lanes of four product vectors."""
    wide = _widened(bytes_of(scales))
    return _groups_01(wide, wide), _groups_23(wide, wide), _groups_45(wide, wide), _groups_67(wide, wide)


@njit(**INLINE)
def each_group(numbers: int) -> Any:
    """Eight numbers, each in the two lanes of its 32 weights' sums, as floats."""
    wide = _widened(bytes_of(numbers))
    return to_f32x16(_each_group(wide, wide))


@njit(**INLINE)
def scaled_products(quants: Any, scales: Any, row: int, start: Any) -> Any:
    """start + scales * (weights * activations), exact integers."""
    a, b, c, d = quants
    scale_a, scale_b, scale_c, scale_d = scales
    row += X256_QUANTS
    total = dot2(start, dot4(zeros_i32x16(), a, load_i8x64(row)), scale_a)
    total = dot2(total, dot4(zeros_i32x16(), b, load_i8x64(row + 64)), scale_b)
    total = dot2(total, dot4(zeros_i32x16(), c, load_i8x64(row + 128)), scale_c)
    return dot2(total, dot4(zeros_i32x16(), d, load_i8x64(row + 192)), scale_d)


@njit(**INLINE)
def apply_with_minimums(block: Any, row: int, total: Any) -> Any:
    """Formats with weight = scale * q - minimum: the minimums meet the sums of the activations."""
    quants, scales, d, minimums = block
    products = to_f32x16(scaled_products(quants, scales, row, zeros_i32x16()))
    total = fma(products, splat_f32x16(d * load_f32(row + X256_SCALE)), total)
    return fma(minimums, load_f32x16(row + X256_SCALED_SUMS), total)
