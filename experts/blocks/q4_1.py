"""Q4_1: 32 weights of 4 bits, a float16 scale and a float16 minimum.

Source: ggml, `block_q4_1`: half d; half m; uint8 qs[16], weight i in the low nibble of byte i, weight 16 + i in the
high one. Weight = d * q + m.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_with_minimum, block_addresses, first_and_second_words, halves_of, total
from experts.blocks.lanes import halves, nibble_of_32
from experts.build import INLINE
from experts.products.activations import X32_SUMS_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_small
from experts.simd.memory import load_f16, load_u8
from experts.simd.vec import store

SCALE, MINIMUM, QUANTS, BYTES = 0, 2, 4, 20
GEOMETRY = (256, 8 * BYTES, X32_SUMS_BYTES, 5)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, their scales and their minimums."""
    blocks = block_addresses(source, BYTES, weights)
    first, second = first_and_second_words(blocks, QUANTS)
    quants = (first & 15, second & 15, (first >> 4) & 15, (second >> 4) & 15)
    return quants, halves_of(blocks, SCALE), halves_of(blocks, MINIMUM)


@njit(**INLINE)
def _open_block(source: int) -> Any:
    return halves(source + ROWS * SCALE), halves(source + ROWS * MINIMUM)


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    return nibble_of_32(source + ROWS * QUANTS, v)


FIELDS = arranged((SCALE, 2, 2), (MINIMUM, 2, 2), (QUANTS, 16, 4))
PANEL = Panel(FIELDS, _open_block, _vector, dot_small, has_minimums=True, light_rows=1, strips_from=512)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 32):
        scale, minimum = load_f16(source + SCALE), load_f16(source + MINIMUM)
        for i in range(16):
            packed = load_u8(source + QUANTS + i)
            store(target + 4 * i, scale * np.float32(packed & 15) + minimum)
            store(target + 4 * (16 + i), scale * np.float32(packed >> 4) + minimum)
        source += BYTES
        target += 4 * 32


NATIVE = Native(decode, add_with_minimum, total, _decode_row, GEOMETRY)
