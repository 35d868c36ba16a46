"""Q8_0: 32 signed bytes and a float16 scale.

Source: ggml, `block_q8_0`: half d; int8 qs[32]. Weight = d * q.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_wide, block_addresses, halves_of, offset_start, total
from experts.blocks.lanes import halves
from experts.build import INLINE
from experts.products.activations import X32_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_signed
from experts.simd.memory import load_f16, load_i8
from experts.simd.vec import I8X64, I64X4, I64X8, converter, load_i8x64, load_i64x4, shuffler, store

SCALE, QUANTS, BYTES = 0, 2, 34
GEOMETRY = (256, 8 * BYTES, X32_BYTES, 5)

_as_bytes = converter(I64X8, I8X64, "bitcast")
_pair = shuffler(I64X4, range(8))
_words_01 = shuffler(I64X8, [0, 4, 8, 12, 1, 5, 9, 13])
_words_23 = shuffler(I64X8, [2, 6, 10, 14, 3, 7, 11, 15])
_low_halves = shuffler(I64X8, [0, 1, 2, 3, 8, 9, 10, 11])
_high_halves = shuffler(I64X8, [4, 5, 6, 7, 12, 13, 14, 15])


@njit(**INLINE)
def _four_blocks(a: int, b: int, c: int, d: int) -> Any:
    """Words 0 and 1, and words 2 and 3, of four blocks."""
    first = _pair(load_i64x4(a + QUANTS), load_i64x4(b + QUANTS))
    second = _pair(load_i64x4(c + QUANTS), load_i64x4(d + QUANTS))
    return _words_01(first, second), _words_23(first, second)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, where their sums start, and their scales."""
    blocks = block_addresses(source, BYTES, weights)
    a, b, c, d, e, f, g, h = blocks
    low_01, low_23 = _four_blocks(a, b, c, d)
    high_01, high_23 = _four_blocks(e, f, g, h)
    quants = (
        _as_bytes(_low_halves(low_01, high_01)),
        _as_bytes(_high_halves(low_01, high_01)),
        _as_bytes(_low_halves(low_23, high_23)),
        _as_bytes(_high_halves(low_23, high_23)),
    )
    return quants, offset_start(quants), halves_of(blocks, SCALE)


@njit(**INLINE)
def _open_block(source: int) -> Any:
    scales = halves(source + ROWS * SCALE)
    return scales, scales


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    return load_i8x64(source + ROWS * QUANTS + 64 * v)


PANEL = Panel(arranged((SCALE, 2, 2), (QUANTS, 32, 4)), _open_block, _vector, dot_signed, light_rows=2, strips_from=32)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for block in range(columns // 32):
        scale = load_f16(source + SCALE)
        for i in range(32):
            store(target + 4 * (32 * block + i), scale * np.float32(load_i8(source + QUANTS + i)))
        source += BYTES


NATIVE = Native(decode, add_wide, total, _decode_row, GEOMETRY)
