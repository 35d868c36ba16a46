"""IQ2_XXS: 256 weights, each eight an entry of a codebook of 256 with an even number of signs.

Source: ggml, `block_iq2_xxs`: half d; then for each group of 32 uint8 qs[4], the numbers of its entries; uint32 with
four times seven signs, and in its upper four bits the scale. Weight = d / 8 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import OFFSET, codebook_format, decode_unit, group_scales, scaled_by_group, with_offset
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import load_f16
from experts.signs import even_signs
from experts.vec import load_i64x8

SCALE, GROUPS, BYTES = 0, 2, 66

_look_up = look_ups(Codebook("IQ2_XXS", with_offset, Numbers(GROUPS, size=1, stride=8, bits=8)))
_even_signs = even_signs(32, 7)


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    scales = group_scales((load_i64x8(source + GROUPS) >> 59) | 1)
    return scaled_by_group(quants, scales, OFFSET, load_f16(source + SCALE) * np.float32(0.125))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return _even_signs(load_i64x8(source + GROUPS))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
