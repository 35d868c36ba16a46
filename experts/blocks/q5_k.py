"""Q5_K: as Q4_K with a fifth bit for each weight.

Source: ggml, `block_q5_K`: half d; half dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]. Bit g of qh[i] is the
fifth bit of weight 32 g + i; the rest is as in Q4_K. Weight = d * scale * q - dmin * minimum.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.groups import (
    apply_with_minimums,
    bit_pairs,
    each_group,
    group_scales,
    nibbles,
    scales_and_minimums,
)
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8
from experts.vec import store, zeros_f32x16

SCALE, MINIMUM, SCALES, HIGH, QUANTS, BYTES = 0, 2, 4, 16, 48, 176
GEOMETRY = (256, BYTES, X256_BYTES)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of 64 weights, their group scales, and what every row needs once per block."""
    scales, minimums = scales_and_minimums(source + SCALES)
    quants = source + QUANTS
    fifth = bit_pairs(source + HIGH)
    return (
        (
            nibbles(quants) | ((fifth << 4) & 16),
            nibbles(quants + 32) | ((fifth << 2) & 16),
            nibbles(quants + 64) | (fifth & 16),
            nibbles(quants + 96) | ((fifth >> 2) & 16),
        ),
        group_scales(scales),
        load_f16(source + SCALE),
        each_group(minimums) * -load_f16(source + MINIMUM),
    )


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q5_k(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply_with_minimums, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_q5_k


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_q5_k(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            d, dmin = load_f16(source + SCALE), load_f16(source + MINIMUM)
            scales, minimums = scales_and_minimums(source + SCALES)
            for group in range(8):
                scale = d * np.float32((scales >> (8 * group)) & 63)
                minimum = dmin * np.float32((minimums >> (8 * group)) & 63)
                for i in range(32):
                    packed = load_u8(source + QUANTS + 32 * (group // 2) + i)
                    fifth = (load_u8(source + HIGH + i) >> group) & 1
                    quant = ((packed >> (4 * (group % 2))) & 15) | (fifth << 4)
                    store(target + 4 * (32 * group + i), scale * np.float32(quant) - minimum)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_q5_k
