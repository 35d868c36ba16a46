"""Q4_0: 32 weights of 4 bits, offset by 8, and a float16 scale.

Source: ggml, `block_q4_0`: half d; uint8 qs[16], weight i in the low nibble of byte i, weight 16 + i in the high one.
Weight = d * (q - 8).
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X32_BYTES, X32_QUANTS, X32_SCALES
from experts.blocks.pairs import both_scales, nibble_pairs, offset_start
from experts.build import INLINE, KERNEL, keyed
from experts.dot import dot4
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8
from experts.vec import fma, load_f32x16, load_i8x64, store, to_f32x16, zeros_f32x16

SCALE, QUANTS, BYTES = 0, 2, 18
OFFSET = 8
GEOMETRY = (64, 2 * BYTES, X32_BYTES)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Two blocks: their weights, the start that takes back the activations' offset, their scales in 8 lanes each."""
    other = source + BYTES if weights > 32 else source  # a missing block meets activations of scale zero
    quants = nibble_pairs(source + QUANTS, other + QUANTS) - OFFSET
    return quants, offset_start(quants), both_scales(source + SCALE, other + SCALE)


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    quants, start, scales = block
    products = dot4(start, load_i8x64(row + X32_QUANTS), quants)
    return fma(to_f32x16(products), scales * load_f32x16(row + X32_SCALES), total)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q4_0(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_q4_0


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_q4_0(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 32):
            scale = load_f16(source + SCALE)
            for i in range(16):
                packed = load_u8(source + QUANTS + i)
                store(target + 4 * i, scale * np.float32((packed & 15) - OFFSET))
                store(target + 4 * (16 + i), scale * np.float32((packed >> 4) - OFFSET))
            source += BYTES
            target += 4 * 32
        return 0

    return decode_q4_0
