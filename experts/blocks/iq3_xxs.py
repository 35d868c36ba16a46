"""IQ3_XXS: 256 weights, each four an entry of a codebook of 256, an even number of signs for each eight.

Source: ggml, `block_iq3_xxs`: half d; uint8 qs[64]; uint32 scales_and_signs[8]. Entry k of group g is qs[8 g + k]. Each
number of 32 bits has four times seven signs, and in its upper four bits the scale of its group.
Weight = d / 4 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import (
    OFFSET,
    codebook_format,
    decode_unit,
    group_scales,
    scaled_by_group,
    with_offset,
    words_of_32,
)
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import load_f16
from experts.signs import even_signs

SCALE, QUANTS, SIGNS, BYTES = 0, 2, 66, 98

_look_up = look_ups(Codebook("IQ3_XXS", with_offset, Numbers(QUANTS, size=1, stride=8, bits=8)))
_even_signs = even_signs(0, 7)


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    scales = group_scales((words_of_32(source + SIGNS) >> 27) | 1)
    return scaled_by_group(quants, scales, OFFSET, load_f16(source + SCALE) * np.float32(0.25))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return _even_signs(words_of_32(source + SIGNS))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
