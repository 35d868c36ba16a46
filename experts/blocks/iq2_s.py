"""IQ2_S: 256 weights, each eight an entry of a codebook of 1024 with eight signs, scales for each 16.

Source: ggml, `block_iq2_s`: half d; uint8 qs[32]; uint8 signs[32]; uint8 qh[8]; uint8 scales[8]. Entry k of group g has
the number qs[4 g + k], with bits 2 k and 2 k + 1 of qh[g] above. Bit i of signs[b] makes weight 8 b + i negative.
Scales are nibbles, one for each 16 weights. Weight = d / 8 * (2 * scale + 1) * +-entry.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.codebooks import add, codebook, decode_block, store_block
from experts.blocks.groups import total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8
from experts.vec import zeros_f32x16

SCALE, QUANTS, SIGNS, HIGH, SCALES, BYTES = 0, 2, 34, 66, 74, 82
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_codebook = codebook("IQ2_S")


@njit(**INLINE)
def _entry(source: int, group: int, word: int) -> Any:
    high = (load_u8(source + HIGH + group) >> (2 * word)) & 3
    return _codebook(load_u8(source + QUANTS + 4 * group + word) | (high << 8))


@njit(**INLINE)
def _signs(source: int, group: int, word: int) -> Any:
    return load_u8(source + SIGNS + 4 * group + word)


@njit(**INLINE)
def _scale(source: int, group: int, half: int) -> Any:
    return 2 * ((load_u8(source + SCALES + group) >> (4 * half)) & 15) + 1


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.125))


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_iq2_s(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_iq2_s


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_iq2_s(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            store_block(_entry, _signs, _scale, source, load_f16(source + SCALE) * np.float32(0.125), target)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_iq2_s
