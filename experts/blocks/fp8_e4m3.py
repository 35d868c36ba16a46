"""FP8 E4M3: 128 bytes and the float32 scale of their block, which checkpoints keep in a tensor of its own.

Source: OCP FP8, E4M3: sign, 4 bits of exponent with bias 7, 3 bits of mantissa, no infinities. Moved to the bits of a
float16 a number is 2**-8 of itself, exactly, denormals too. 0x7F and 0xFF, which stand for NaN there, become 480 and
-480 here: who makes blocks of this format keeps them out.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.activations import F32_BYTES
from experts.blocks.floats import halves_to_f32, total
from experts.build import INLINE
from experts.frame import Native, for_each_row
from experts.memory import half_bits_to_f32, load_f32, load_i8
from experts.vec import I8X32, I16X32, converter, fma, load_f32x16, load_i8x32, shuffler, splat_f32x16, store

WEIGHTS, SCALE, QUANTS, BYTES = 128, 0, 4, 132
GEOMETRY = (WEIGHTS, BYTES, 8 * F32_BYTES, 7)

_UNSCALED = np.float32(2.0**8)
_SIGN_AND_VALUE = 0xBF80 - 0x10000

_widened = converter(I8X32, I16X32, "sext")
_low = shuffler(I16X32, range(16))
_high = shuffler(I16X32, range(16, 32))


@njit(**INLINE)
def _thirty_two(source: int) -> Any:
    halves = (_widened(load_i8x32(source)) << 7) & _SIGN_AND_VALUE
    return halves_to_f32(_low(halves, halves)), halves_to_f32(_high(halves, halves))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Eight vectors of weights without their scale, and the scale."""
    quants = source + QUANTS
    a, b = _thirty_two(quants)
    c, d = _thirty_two(quants + 32)
    e, f = _thirty_two(quants + 64)
    g, h = _thirty_two(quants + 96)
    return (a, b, c, d, e, f, g, h), splat_f32x16(load_f32(source + SCALE) * _UNSCALED)


@njit(**INLINE)
def _apply(block: Any, row: int, total: Any) -> Any:
    (a, b, c, d, e, f, g, h), scale = block
    even, odd = a * load_f32x16(row), b * load_f32x16(row + 64)
    even, odd = fma(c, load_f32x16(row + 128), even), fma(d, load_f32x16(row + 192), odd)
    even, odd = fma(e, load_f32x16(row + 256), even), fma(f, load_f32x16(row + 320), odd)
    even, odd = fma(g, load_f32x16(row + 384), even), fma(h, load_f32x16(row + 448), odd)
    return fma(scale, even + odd, total)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for block in range(columns // WEIGHTS):
        scale = load_f32(source + SCALE) * _UNSCALED
        for i in range(WEIGHTS):
            bits = (load_i8(source + QUANTS + i) << 7) & 0xBF80
            store(target + 4 * (WEIGHTS * block + i), scale * half_bits_to_f32(bits))
        source += BYTES


NATIVE = Native(decode, for_each_row(_apply), total, _decode_row, GEOMETRY)
