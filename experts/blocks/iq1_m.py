"""IQ1_M: 256 weights, each eight an entry of a codebook of 2048 with values -1, 0, 1, shifted; scales for each 16.

Source: ggml, `block_iq1_m`: uint8 qs[32]; uint8 qh[16]; uint16 scales[4]. Entry k has the number qs[k], with the low
three bits of nibble k of qh above; the nibble's fourth bit makes its shift -1/8, else it is 1/8. Scale i is bits
3 (i % 4) to 3 (i % 4) + 2 of scales[i / 4]; the upper four bits of the four numbers are those of half d, lowest first.
Weight = d * (2 * scale + 1) * (entry + shift).
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import codebook_format, decode_unit, scaled_by_half
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import half_bits_to_f32, load_i64
from experts.signs import equal_signs
from experts.vec import I16X8, I32X16, I64X8, converter, literal, load_i16x8, splat_i64x8

QUANTS, HIGH, SCALES, BYTES = 0, 32, 48, 56
OFFSET = 9  # weights are stored as 8 * (entry + shift) + 9

_numbers = Numbers(QUANTS, size=1, stride=4, bits=11, high=HIGH, high_size=2, high_step=4)
_look_up = look_ups(Codebook("IQ1_S", lambda entry, sign: 8 * entry + sign + OFFSET, _numbers))
_equal_signs = equal_signs(3, 4)
_widened = converter(I16X8, I64X8, "zext")
_as_lanes = converter(I64X8, I32X16, "bitcast")
_first_scale = literal(I64X8, [16 * (i // 2) + 6 * (i % 2) for i in range(8)])


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    packed = load_i64(source + SCALES)
    threes = splat_i64x8(packed) >> _first_scale()
    scales = _as_lanes(((threes << 1) & 14) | (((threes >> 2) & 14) << 32)) | 1
    d = ((packed >> 12) & 15) | ((packed >> 24) & 0xF0) | ((packed >> 36) & 0xF00) | ((packed >> 48) & 0xF000)
    return scaled_by_half(quants, scales, OFFSET, half_bits_to_f32(d) * np.float32(0.125))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return _equal_signs(_widened(load_i16x8(source + HIGH)))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
