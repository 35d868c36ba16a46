"""A chunk of weights times many rows: strip by strip of rows, panel by panel, tile by tile."""

from typing import Any

from numba import njit

from experts.build import INLINE
from experts.memory import caller, load_i64
from experts.panels import ROWS, added
from experts.stack import room
from experts.tiles import COLUMNS, TILE_BYTES, TOTAL_BYTES
from experts.vec import load_f32x16, store, zeros_f32x16

STRIP_ROWS = 32  # their running totals stay in the first cache, and unpacking costs little beside their products
_TOTALS_BYTES = STRIP_ROWS * TOTAL_BYTES

# What a format gives: addresses of its kernels, bytes of 256 columns of an encoded row, vectors of totals of a row.
UNPACK, APPLY, UNIT_BYTES, TOTALS = range(4)

_call_unpack = caller(5)
_call_apply = caller(6)


@njit(**INLINE)
def multiply_strips(kernels: int, work: Any, count: int) -> None:
    """Weights, a multiple of 16 rows, times `count` encoded rows, at least six; `work` is what MULTIPLY takes."""
    weights, row_bytes, rows, columns, activations, out, out_bytes = work
    strips = (count + STRIP_ROWS - 1) // STRIP_ROWS
    for strip in range(strips):
        begin = count * strip // strips
        here = count * (strip + 1) // strips - begin
        for row in range(0, rows, ROWS):
            panel, place = weights + row * row_bytes, out + begin * out_bytes + 4 * row
            _multiply_panel(kernels, (panel, row_bytes, columns, activations + 8 * begin, place, out_bytes), here)


@njit(**INLINE)
def _multiply_panel(kernels: int, work: Any, count: int) -> None:
    """16 rows of weights with one strip of rows."""
    panel, row_bytes, columns, activations, out, out_bytes = work
    tile, totals = room(TILE_BYTES), room(_TOTALS_BYTES)
    unpack, apply = load_i64(kernels + 8 * UNPACK), load_i64(kernels + 8 * APPLY)
    unit_bytes, row_totals = load_i64(kernels + 8 * UNIT_BYTES), load_i64(kernels + 8 * TOTALS)
    for offset in range(0, 64 * count * row_totals, 64):
        store(totals + offset, zeros_f32x16())
    for index in range((columns + COLUMNS - 1) // COLUMNS):
        left = min(COLUMNS, columns - COLUMNS * index)
        _call_unpack(unpack, (panel, row_bytes, columns, index, tile))
        _call_apply(apply, (tile, activations, count, index * unit_bytes, totals, left))
    for t in range(count):
        place = totals + 64 * row_totals * t
        store(out + t * out_bytes, load_f32x16(place) if row_totals == 1 else added(place))
