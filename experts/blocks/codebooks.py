"""What the formats with codebooks share: 256 weights d * scale * (q - offset), where all but d are integers.

A block is decoded into four vectors of unsigned bytes q, at most 127; in i32 lanes, two for each group of 32, the
scales of a group's first 16 weights, those of its last 16, and what takes the offset back from sums of 16 activations;
and d.
Units are four blocks, which are looked up together (see entries.py).
"""

from typing import Any

import numpy as np
from numba import njit
from numba.cpython.unsafe.tuple import tuple_setitem

from experts.activations import X256_BYTES, X256_SCALE, X256_SUMS
from experts.blocks.groups import adding, first_and_last, products, signed_words, total
from experts.build import INLINE
from experts.frame import MAX_ROWS, Native
from experts.memory import load_f32, load_i64
from experts.sums import add_four_totals
from experts.vec import (
    I8X8,
    I8X16,
    I32X8,
    I32X16,
    I64X8,
    bytes_of,
    converter,
    lane_i8,
    lane_i32,
    load_i16x16,
    load_i32x8,
    shuffler,
    store,
    zeros_i32x16,
)

OFFSET = 64  # of codebooks of magnitudes, which are at most 62

_widened_quads = converter(I32X8, I64X8, "zext")
_widened_scales = converter(I8X16, I32X16, "zext")
_as_lanes = converter(I64X8, I32X16, "bitcast")
_low_halves = shuffler(I32X16, [lane // 2 * 2 for lane in range(16)])
_interleaved = shuffler(I8X8, [i // 2 + 8 * (i % 2) for i in range(16)])


def with_offset(magnitude: int, sign: int) -> int:
    """A weight of a codebook of magnitudes as an unsigned byte."""
    return OFFSET + sign * magnitude


# --- fields of a block: words are int64, one for each group ----------------------------------------------------------


@njit(**INLINE)
def words_of_32(source: int) -> Any:
    """Eight numbers of 32 bits as words."""
    return _widened_quads(load_i32x8(source))


@njit(**INLINE)
def group_scales(words: Any) -> Any:
    """The low halves of words as the scales of groups, in both lanes."""
    lanes = _as_lanes(words)
    return _low_halves(lanes, lanes)


@njit(**INLINE)
def nibble_scales(source: int) -> Any:
    """2 * nibble + 1 for each nibble of eight bytes, as the scales of 16 weights."""
    nibbles = bytes_of(load_i64(source))
    return _widened_scales(_interleaved((nibbles << 1) & 30, (nibbles >> 3) & 30) | 1)


# --- blocks ----------------------------------------------------------------------------------------------------------


@njit(**INLINE)
def scaled_by_group(quants: Any, scales: Any, offset: int, d: float) -> Any:
    """A block whose groups have one scale each, in both lanes."""
    return (quants, scales, scales, scales * -offset), d


@njit(**INLINE)
def scaled_by_half(quants: Any, scales: Any, offset: int, d: float) -> Any:
    """A block whose groups have two scales each, one in each lane."""
    first, last = first_and_last(scales)
    return (quants, first, last, scales * -offset), d


@njit(**INLINE)
def _apply(body: Any, row: int) -> Any:
    (w0, w1, w2, w3), first_scales, last_scales, offsets = body
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)
    last = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    sums = offsets * signed_words(load_i16x16(row + X256_SUMS))
    return sums + first * first_scales + last * last_scales


_add_block = adding(_apply)


@njit(**INLINE)
def decode_unit(look_up: Any, signs: Any, block: Any, source: int, block_bytes: int, weights: int) -> Any:
    """Four blocks; where a row's last unit lacks some, others stand in their places."""
    a, b = source, source + (block_bytes if weights > 256 else 0)
    if weights <= 512:
        first, second = look_up((a, b), (signs(a), signs(b)))
        two = block(a, first), block(b, second)
        return two[0], two[1], two[0], two[1], weights
    c, d = source + 2 * block_bytes, source + (3 * block_bytes if weights > 768 else 0)
    first, second, third, fourth = look_up((a, b, c, d), (signs(a), signs(b), signs(c), signs(d)))
    return block(a, first), block(b, second), block(c, third), block(d, fourth), weights


@njit(**INLINE)
def _add_four(unit: Any, row: int, sum_so_far: Any) -> Any:
    """Four blocks for one row: the lanes of all four are summed at once, which is cheaper."""
    (a, da), (b, db), (c, dc), (d, dd), _ = unit
    second, third, fourth = row + X256_BYTES, row + 2 * X256_BYTES, row + 3 * X256_BYTES
    sums = _apply(a, row), _apply(b, second), _apply(c, third), _apply(d, fourth)
    scales = (
        load_f32(row + X256_SCALE) * da,
        load_f32(second + X256_SCALE) * db,
        load_f32(third + X256_SCALE) * dc,
        load_f32(fourth + X256_SCALE) * dd,
    )
    return add_four_totals(sums, scales, sum_so_far)


@njit(**INLINE)
def _add(unit: Any, rows: Any, offset: int, totals: Any) -> Any:
    """The blocks that are there, one after the other."""
    first, second, third, fourth, weights = unit
    if len(rows) == 1 and weights > 768:
        return tuple_setitem(totals, 0, _add_four(unit, rows[0] + offset, totals[0]))
    totals = _add_block(first, rows, offset, totals)
    if weights > 256:
        totals = _add_block(second, rows, offset + X256_BYTES, totals)
    if weights > 512:
        totals = _add_block(third, rows, offset + 2 * X256_BYTES, totals)
    if weights > 768:
        totals = _add_block(fourth, rows, offset + 3 * X256_BYTES, totals)
    return totals


@njit(**INLINE)
def _store_word(quants: Any, scales: Any, offsets: Any, d: float, word: int, target: int) -> None:
    for group in range(8):
        scale, offset = lane_i32(scales, 2 * group), lane_i32(offsets, 2 * group + word // 2)
        for i in range(8):
            weight = d * np.float32(scale * lane_i8(quants, 8 * group + i) + offset)
            store(target + 4 * (32 * group + 8 * word + i), weight)


@njit(**INLINE)
def store_block(block: Any, target: int) -> None:
    """The weights of a block as float32."""
    ((w0, w1, w2, w3), first_scales, last_scales, offsets), d = block
    _store_word(w0, first_scales, offsets, d, 0, target)
    _store_word(w1, first_scales, offsets, d, 1, target)
    _store_word(w2, last_scales, offsets, d, 2, target)
    _store_word(w3, last_scales, offsets, d, 3, target)


def codebook_format(decode: Any, block_bytes: int) -> Native:
    """The functions of a format whose decoder returns units of four blocks."""

    @njit(**INLINE)
    def decode_row(source: int, target: int, columns: int) -> None:
        for _ in range(columns // 256):
            store_block(decode(source, 256)[0], target)
            source += block_bytes
            target += 4 * 256

    return Native(decode, _add, total, decode_row, (1024, 4 * block_bytes, 4 * X256_BYTES, MAX_ROWS + 1))
