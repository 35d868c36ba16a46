"""IQ4_NL: 32 weights that are one of 16 unevenly spaced values, and a float16 scale.

Source: ggml, `block_iq4_nl`: half d; uint8 qs[16], the number of weight i in the low nibble of byte i, that of weight
16 + i in the high one. Weight = d * VALUES[q].
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_wide, block_addresses, first_and_second_words, halves_of, offset_start, total
from experts.blocks.lanes import halves, shifted
from experts.build import INLINE
from experts.products.activations import X32_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_signed
from experts.simd.lookup import byte_table
from experts.simd.memory import load_f16, load_u8
from experts.simd.vec import store

SCALE, QUANTS, BYTES = 0, 2, 18
VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
GEOMETRY = (256, 8 * BYTES, X32_BYTES, 5)

_value = byte_table(VALUES)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, where their sums start, and their scales."""
    blocks = block_addresses(source, BYTES, weights)
    first, second = first_and_second_words(blocks, QUANTS)
    quants = (_value(first), _value(second), _value(first >> 4), _value(second >> 4))
    return quants, offset_start(quants), halves_of(blocks, SCALE)


@njit(**INLINE)
def _open_block(source: int) -> Any:
    scales = halves(source + ROWS * SCALE)
    return scales, scales


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    return _value(shifted(source + ROWS * QUANTS, v % 4, v // 4 * 4))


PANEL = Panel(arranged((SCALE, 2, 2), (QUANTS, 16, 4)), _open_block, _vector, dot_signed, light_rows=1, strips_from=24)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 32):
        scale = load_f16(source + SCALE)
        for i in range(16):
            packed = load_u8(source + QUANTS + i)
            store(target + 4 * i, scale * np.float32(VALUES[packed & 15]))
            store(target + 4 * (16 + i), scale * np.float32(VALUES[packed >> 4]))
        source += BYTES
        target += 4 * 32


NATIVE = Native(decode, add_wide, total, _decode_row, GEOMETRY)
