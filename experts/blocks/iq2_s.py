"""IQ2_S: 256 weights, each eight an entry of a codebook of 1024 with eight signs, scales for each 16.

Source: ggml, `block_iq2_s`: half d; uint8 qs[32]; uint8 signs[32]; uint8 qh[8]; uint8 scales[8]. Entry k of group g has
the number qs[4 g + k], with bits 2 k and 2 k + 1 of qh[g] above. Bit i of signs[b] makes weight 8 b + i negative.
Scales are nibbles, one for each 16 weights. Weight = d / 8 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import (
    OFFSET,
    codebook_format,
    decode_unit,
    nibble_scales,
    scaled_by_half,
    with_offset,
    words_of_32,
)
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import load_f16

SCALE, QUANTS, SIGNS, HIGH, SCALES, BYTES = 0, 2, 34, 66, 74, 82

_numbers = Numbers(QUANTS, size=1, stride=4, bits=10, high=HIGH, high_size=1, high_step=2)
_look_up = look_ups(Codebook("IQ2_S", with_offset, _numbers))


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    scales = nibble_scales(source + SCALES)
    return scaled_by_half(quants, scales, OFFSET, load_f16(source + SCALE) * np.float32(0.125))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return words_of_32(source + SIGNS)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
