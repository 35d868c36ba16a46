"""IQ2_XXS: 256 weights, each eight an entry of a codebook of 256 with an even number of signs.

Source: ggml, `block_iq2_xxs`: half d; then for each group of 32 uint8 qs[4], the numbers of its entries; uint32 with
four times seven signs, and in its upper four bits the scale. Weight = d / 8 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.codebooks import add, codebook, decode_block, even_signs, store_block
from experts.blocks.groups import total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8, load_u32
from experts.vec import zeros_f32x16

SCALE, QUANTS, SIGNS, BYTES = 0, 2, 6, 66
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_codebook = codebook("IQ2_XXS")


@njit(**INLINE)
def _entry(source: int, group: int, word: int) -> Any:
    return _codebook(load_u8(source + QUANTS + 8 * group + word))


@njit(**INLINE)
def _signs(source: int, group: int, word: int) -> Any:
    return even_signs((load_u32(source + SIGNS + 8 * group) >> (7 * word)) & 127)


@njit(**INLINE)
def _scale(source: int, group: int, half: int) -> Any:
    return 2 * (load_u32(source + SIGNS + 8 * group) >> 28) + 1


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.125))


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_iq2_xxs(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_iq2_xxs


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_iq2_xxs(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            store_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.125), target)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_iq2_xxs
