"""Q5_1: 32 weights of 5 bits, a float16 scale and a float16 minimum.

Source: ggml, `block_q5_1`: half d; half m; uint8 qh[4]; uint8 qs[16], weight i in the low nibble of byte i, weight
16 + i in the high one. Bit i of qh, taken as one number, is the fifth bit of weight i. Weight = d * q + m.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_with_minimum, bits_of, block_addresses, first_and_second_words, halves_of, total
from experts.blocks.lanes import halves, nibble_of_32, spread_bits
from experts.build import INLINE
from experts.products.activations import X32_SUMS_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_small
from experts.simd.memory import load_f16, load_u8, load_u32
from experts.simd.vec import chosen, store

SCALE, MINIMUM, HIGH, QUANTS, BYTES = 0, 2, 4, 8, 24
GEOMETRY = (256, 8 * BYTES, X32_SUMS_BYTES, 5)


@njit(**INLINE)
def _joined(low: Any, fifth: int) -> Any:
    return chosen(fifth, low | 16, low)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, their scales and their minimums."""
    blocks = block_addresses(source, BYTES, weights)
    first, second = first_and_second_words(blocks, QUANTS)
    fifth_0, fifth_1, fifth_2, fifth_3 = bits_of(blocks, HIGH)
    quants = (
        _joined(first & 15, fifth_0),
        _joined(second & 15, fifth_1),
        _joined((first >> 4) & 15, fifth_2),
        _joined((second >> 4) & 15, fifth_3),
    )
    return quants, halves_of(blocks, SCALE), halves_of(blocks, MINIMUM)


@njit(**INLINE)
def _open_block(source: int) -> Any:
    return halves(source + ROWS * SCALE), halves(source + ROWS * MINIMUM)


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    return nibble_of_32(source + ROWS * QUANTS, v) | spread_bits(source + ROWS * HIGH, v)


FIELDS = arranged((SCALE, 2, 2), (MINIMUM, 2, 2), (HIGH, 4, 4), (QUANTS, 16, 4))
PANEL = Panel(FIELDS, _open_block, _vector, dot_small, has_minimums=True, strips_from=512)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 32):
        scale, minimum = load_f16(source + SCALE), load_f16(source + MINIMUM)
        high = load_u32(source + HIGH)
        for i in range(32):
            low = (load_u8(source + QUANTS + i % 16) >> (4 * (i // 16))) & 15
            quant = low | (((high >> i) & 1) << 4)
            store(target + 4 * i, scale * np.float32(quant) + minimum)
        source += BYTES
        target += 4 * 32


NATIVE = Native(decode, add_with_minimum, total, _decode_row, GEOMETRY)
