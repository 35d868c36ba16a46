"""MXFP4: 32 weights of 4-bit floats, one of 16 values, and a power of two as scale.

Source: ggml, `block_mxfp4`, after the microscaling formats of the Open Compute Project: uint8 e; uint8 qs[16], weight i
in the low nibble of byte i, weight 16 + i in the high one. VALUES are doubled, which makes them integers, so
weight = 2**(e - 128) * VALUES[q].
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.eights import add_small, block_addresses, byte_of, first_and_second_words, offset_start, total
from experts.blocks.lanes import shifted, unsigned_bytes
from experts.build import INLINE
from experts.products.activations import X32_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_signed_small
from experts.simd.lookup import byte_table
from experts.simd.memory import bits_to_f32, load_u8
from experts.simd.vec import bits_f32, store

EXPONENT, QUANTS, BYTES = 0, 1, 17
VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
GEOMETRY = (256, 8 * BYTES, X32_BYTES, 5)
# 2**(e - 128) may be a denormal: it is made from two powers of about half the exponent, 2**(n - 64), which never are.
HALF_BIAS, MANTISSA_BITS = 127 - 64, 23

_value = byte_table(VALUES)


@njit(**INLINE)
def _scales(exponents: Any) -> Any:
    half = exponents >> 1
    return bits_f32((half + HALF_BIAS) << MANTISSA_BITS) * bits_f32((exponents - half + HALF_BIAS) << MANTISSA_BITS)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of the weights of eight blocks, where their sums start, and their scales."""
    blocks = block_addresses(source, BYTES, weights)
    first, second = first_and_second_words(blocks, QUANTS)
    quants = (_value(first), _value(second), _value(first >> 4), _value(second >> 4))
    return quants, offset_start(quants), _scales(byte_of(blocks, EXPONENT))


@njit(**INLINE)
def _open_block(source: int) -> Any:
    scales = _scales(unsigned_bytes(source + ROWS * EXPONENT))
    return scales, scales


@njit(**INLINE)
def _vector(source: int, v: int) -> Any:
    return _value(shifted(source + ROWS * QUANTS, v % 4, v // 4 * 4))


PANEL = Panel(
    arranged((EXPONENT, 1, 1), (QUANTS, 16, 4)), _open_block, _vector, dot_signed_small, light_rows=1, strips_from=16
)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for _ in range(columns // 32):
        exponent = load_u8(source + EXPONENT)
        half = exponent >> 1
        rest = exponent - half
        scale = bits_to_f32((half + HALF_BIAS) << MANTISSA_BITS) * bits_to_f32((rest + HALF_BIAS) << MANTISSA_BITS)
        for i in range(16):
            packed = load_u8(source + QUANTS + i)
            store(target + 4 * i, scale * np.float32(VALUES[packed & 15]))
            store(target + 4 * (16 + i), scale * np.float32(VALUES[packed >> 4]))
        source += BYTES
        target += 4 * 32


NATIVE = Native(decode, add_small, total, _decode_row, GEOMETRY)
