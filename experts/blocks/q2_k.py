"""Q2_K: 256 weights of 2 bits in 16 groups of 16, each with a 4-bit scale and a 4-bit minimum.

Source: ggml, `block_q2_K`: uint8 scales[16]; uint8 qs[64]; half d; half dmin. Group g has its scale in the low nibble
of scales[g], its minimum in the high one. Each half of 128 weights has 32 bytes of qs: weights i, 32 + i, 64 + i,
96 + i (i < 32) are bits 0-1, 2-3, 4-5, 6-7 of byte i. Weight = d * scale * q - dmin * minimum.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.groups import add_block, first_and_last, pairs, products
from experts.build import INLINE, KERNEL, keyed
from experts.dot import dot2
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8
from experts.vec import I8X16, I32X16, converter, load_i8x16, store, to_f32x16, zeros_f32x16, zeros_i32x16

SCALES, QUANTS, SCALE, MINIMUM, BYTES = 0, 16, 80, 82, 84
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_widened = converter(I8X16, I32X16, "zext")


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of weights, the scales and minimums of their groups, and d."""
    quants = pairs(source + QUANTS)
    scales = _widened(load_i8x16(source + SCALES))
    offsets = to_f32x16(scales >> 4) * -load_f16(source + MINIMUM)
    return quants, first_and_last(scales & 15), offsets, load_f16(source + SCALE)


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    (w0, w1, w2, w3), (first_16, last_16), minimums, d = block
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)  # 8 * 3 * 127 fits 16 bits
    last = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    return add_block(dot2(dot2(zeros_i32x16(), first, first_16), last, last_16), d, minimums, row, total)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q2_k(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_q2_k


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_q2_k(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            d, dmin = load_f16(source + SCALE), load_f16(source + MINIMUM)
            for weight in range(256):
                packed = load_u8(source + SCALES + weight // 16)
                scale, minimum = d * np.float32(packed & 15), dmin * np.float32(packed >> 4)
                quant = (load_u8(source + QUANTS + 32 * (weight // 128) + weight % 32) >> (weight % 128 // 32 * 2)) & 3
                store(target + 4 * weight, scale * np.float32(quant) - minimum)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_q2_k
