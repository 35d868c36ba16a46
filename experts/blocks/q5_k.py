"""Q5_K: as Q4_K with a fifth bit for each weight.

Source: ggml, `block_q5_K`: half d; half dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]. Bit g of qh[i] is the
fifth bit of weight 32 g + i; the rest is as in Q4_K. Weight = d * scale * q - dmin * minimum.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.groups import add_block, bits, each_group, nibbles, products, scales_and_minimums
from experts.build import INLINE, KERNEL, keyed
from experts.dot import dot2
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8
from experts.vec import store, to_f32x16, zeros_f32x16, zeros_i32x16

SCALE, MINIMUM, SCALES, HIGH, QUANTS, BYTES = 0, 2, 4, 16, 48, 176
GEOMETRY = (256, BYTES, X256_BYTES, 5)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of weights, the scales and minimums of their groups, and d."""
    scales, minimums = scales_and_minimums(source + SCALES)
    offsets = to_f32x16(each_group(minimums)) * -load_f16(source + MINIMUM)
    w0, w1, w2, w3 = nibbles(source + QUANTS)
    h0, h1, h2, h3 = bits(source + HIGH)
    quants = (w0 | (h0 << 4), w1 | (h1 << 4), w2 | (h2 << 4), w3 | (h3 << 4))
    return quants, each_group(scales), offsets, load_f16(source + SCALE)


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    (w0, w1, w2, w3), scales, minimums, d = block
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)  # 8 * 31 * 127 fits 16 bits
    second = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    return add_block(dot2(dot2(zeros_i32x16(), first, scales), second, scales), d, minimums, row, total)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q5_k(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply, repeat(zeros_f32x16(), m), GEOMETRY, work)

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
