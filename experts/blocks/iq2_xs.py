"""IQ2_XS: 256 weights, each eight an entry of a codebook of 512 with an even number of signs, scales for each 16.

Source: ggml, `block_iq2_xs`: half d; uint16 qs[32], the low nine bits the number of an entry, the others seven signs;
uint8 scales[8], a nibble for each 16 weights. Weight = d / 8 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.codebooks import OFFSET, codebook_format, decode_unit, nibble_scales, scaled_by_half, with_offset
from experts.build import INLINE
from experts.codebook import Codebook, Numbers
from experts.entries import look_ups
from experts.memory import load_f16
from experts.signs import even_signs
from experts.vec import load_i64x8

SCALE, QUANTS, SCALES, BYTES = 0, 2, 66, 74

_look_up = look_ups(Codebook("IQ2_XS", with_offset, Numbers(QUANTS, size=2, stride=8, bits=9)))
_even_signs = even_signs(9, 16)


@njit(**INLINE)
def _block(source: int, quants: Any) -> Any:
    scales = nibble_scales(source + SCALES)
    return scaled_by_half(quants, scales, OFFSET, load_f16(source + SCALE) * np.float32(0.125))


@njit(**INLINE)
def _signs(source: int) -> Any:
    return _even_signs(load_i64x8(source + QUANTS))


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_unit(_look_up, _signs, _block, source, BYTES, weights)


NATIVE = codebook_format(decode, BYTES)
