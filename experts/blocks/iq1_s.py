"""IQ1_S: 256 weights, each eight an entry of a codebook of 2048 with values -1, 0, 1; scales and shifts for each 32.

Source: ggml, `block_iq1_s`: half d; uint8 qs[32]; uint16 qh[8]. Entry k of group g has the number qs[4 g + k], with
bits 3 k to 3 k + 2 of qh[g] above. Bits 12 to 14 of qh[g] are the scale of the group; bit 15 makes its shift -1/8, else
it is 1/8. Weight = d * (2 * scale + 1) * (entry + shift).
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import codebook_format, decode_unit, group_scales, scaled_by_group
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import load_f16
from experts.signs import equal_signs
from experts.vec import I16X8, I64X8, converter, load_i16x8

SCALE, QUANTS, HIGH, BYTES = 0, 2, 34, 50
OFFSET = 9  # weights are stored as 8 * (entry + shift) + 9

_numbers = Numbers(QUANTS, size=1, stride=4, bits=11, high=HIGH, high_size=2, high_step=3)
_look_up = look_ups(Codebook("IQ1_S", lambda entry, sign: 8 * entry + sign + OFFSET, _numbers))
_equal_signs = equal_signs(15, 0)
_widened = converter(I16X8, I64X8, "zext")


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    scales = group_scales(((_widened(load_i16x8(source + HIGH)) >> 11) & 14) | 1)
    return scaled_by_group(quants, scales, OFFSET, load_f16(source + SCALE) * np.float32(0.125))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return _equal_signs(_widened(load_i16x8(source + HIGH)))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
