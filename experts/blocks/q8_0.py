"""Q8_0: 32 signed bytes and a float16 scale.

Source: ggml, `block_q8_0`: half d; int8 qs[32]. Weight = d * q.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit

from experts.activations import X32_BYTES, X32_QUANTS, X32_SCALES
from experts.blocks.pairs import both_scales, offset_start
from experts.build import INLINE, KERNEL, keyed
from experts.dot import dot4_wide
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_i8
from experts.vec import (
    fma,
    join_i8x64,
    load_f32x16,
    load_i8x32,
    load_i8x64,
    store,
    to_f32x16,
    zeros_f32x16,
    zeros_i8x32,
)

SCALE, QUANTS, BYTES = 0, 2, 34
GEOMETRY = (64, 2 * BYTES, X32_BYTES)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Two blocks: their weights, the start that takes back the activations' offset, their scales in 8 lanes each."""
    first = load_i8x32(source + QUANTS)
    second = load_i8x32(source + BYTES + QUANTS) if weights > 32 else zeros_i8x32()
    quants = join_i8x64(first, second)
    other = source + BYTES if weights > 32 else source
    return quants, offset_start(quants), both_scales(source + SCALE, other + SCALE)


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    quants, start, scales = block
    products = dot4_wide(start, load_i8x64(row + X32_QUANTS), quants)
    return fma(to_f32x16(products), scales * load_f32x16(row + X32_SCALES), total)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_q8_0(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, apply, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_q8_0


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_q8_0(source: int, target: int, columns: int) -> int:
        keyed(build)
        for block in range(columns // 32):
            scale = load_f16(source + SCALE)
            for i in range(32):
                store(target + 4 * (32 * block + i), scale * np.float32(load_i8(source + QUANTS + i)))
            source += BYTES
        return 0

    return decode_q8_0
