"""Q4_0: 32 weights of 4 bits, offset by 8, and a float16 scale.

Source: ggml, `block_q4_0`: half d; uint8 qs[16], weight i in the low nibble of byte i, weight 16 + i in the high one.
Weight = d * (q - 8).
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_small, block_addresses, first_and_second_words, halves_of, offset_start, total
from experts.blocks.lanes import halves, nibble_of_32, shifted
from experts.build import INLINE
from experts.products.activations import X32_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_signed_small
from experts.simd.lookup import table_of_64
from experts.simd.memory import load_f16, load_u8
from experts.simd.permutes import by_permutes
from experts.simd.vec import store

SCALE, QUANTS, BYTES = 0, 2, 18
OFFSET = 8
GEOMETRY = (256, 8 * BYTES, X32_BYTES, 5)

_value = table_of_64([n % 16 - OFFSET for n in range(64)])


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, where their sums start, and their scales."""
    blocks = block_addresses(source, BYTES, weights)
    first, second = first_and_second_words(blocks, QUANTS)
    quants = (
        (first & 15) - OFFSET,
        (second & 15) - OFFSET,
        ((first >> 4) & 15) - OFFSET,
        ((second >> 4) & 15) - OFFSET,
    )
    return quants, offset_start(quants), halves_of(blocks, SCALE)


@njit(**INLINE)
def _open_block(source: int) -> Any:
    scales = halves(source + ROWS * SCALE)
    return scales, scales


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    if by_permutes():
        return _value(shifted(source + ROWS * QUANTS, v % 4, v // 4 * 4))
    return nibble_of_32(source + ROWS * QUANTS, v) - OFFSET


PANEL = Panel(
    arranged((SCALE, 2, 2), (QUANTS, 16, 4)), _open_block, _vector, dot_signed_small, light_rows=1, strips_from=128
)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 32):
        scale = load_f16(source + SCALE)
        for i in range(16):
            packed = load_u8(source + QUANTS + i)
            store(target + 4 * i, scale * np.float32((packed & 15) - OFFSET))
            store(target + 4 * (16 + i), scale * np.float32((packed >> 4) - OFFSET))
        source += BYTES
        target += 4 * 32


NATIVE = Native(decode, add_small, total, _decode_row, GEOMETRY)
