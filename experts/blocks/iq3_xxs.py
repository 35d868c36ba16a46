"""IQ3_XXS: 256 weights, each four an entry of a codebook of 256, an even number of signs for each eight.

Source: ggml, `block_iq3_xxs`: half d; uint8 qs[64]; uint32 scales_and_signs[8]. Entry k of group g is qs[8 g + k]. Each
number of 32 bits has four times seven signs, and in its upper four bits the scale of its group.
Weight = d / 4 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.codebooks import add, codebook, decode_block, even_signs, store_block
from experts.blocks.groups import total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u16, load_u32
from experts.vec import zeros_f32x16

SCALE, QUANTS, SIGNS, BYTES = 0, 2, 66, 98
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_codebook = codebook("IQ3_XXS")


@njit(**INLINE)
def _entry(source: int, group: int, word: int) -> Any:
    numbers = load_u16(source + QUANTS + 8 * group + 2 * word)
    return _codebook(numbers & 255) | (_codebook(numbers >> 8) << 32)


@njit(**INLINE)
def _signs(source: int, group: int, word: int) -> Any:
    return even_signs((load_u32(source + SIGNS + 4 * group) >> (7 * word)) & 127)


@njit(**INLINE)
def _scale(source: int, group: int, half: int) -> Any:
    return 2 * (load_u32(source + SIGNS + 4 * group) >> 28) + 1


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.25))


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_iq3_xxs(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_iq3_xxs


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_iq3_xxs(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            store_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.25), target)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_iq3_xxs
