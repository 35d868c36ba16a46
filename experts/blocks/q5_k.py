"""Q5_K: as Q4_K with a fifth bit for each weight.

Source: ggml, `block_q5_K`: half d; half dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]. Bit g of qh[i] is the
fifth bit of weight 32 g + i; the rest is as in Q4_K. Weight = d * scale * q - dmin * minimum.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.blocks.groups import adding_minimums, bits, each_group, nibbles, products, scales_and_minimums, total
from experts.blocks.lanes import bits_moved, minimums_of, nibble, scale_of
from experts.blocks.q4_k import open_block
from experts.build import INLINE
from experts.products.activations import X256_BYTES
from experts.products.frame import Native
from experts.products.panels import ROWS, Panel, arranged, dot_small
from experts.simd.dot import dot2
from experts.simd.memory import load_f16, load_u8
from experts.simd.vec import store, zeros_i32x16

SCALE, MINIMUM, SCALES, HIGH, QUANTS, BYTES = 0, 2, 4, 16, 48, 176
GEOMETRY = (256, BYTES, X256_BYTES, 5)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    """Four vectors of weights with the scales of their groups, the minimums, d and -dmin."""
    scales, minimums = scales_and_minimums(source + SCALES)
    w0, w1, w2, w3 = nibbles(source + QUANTS)
    h0, h1, h2, h3 = bits(source + HIGH)
    quants = (w0 | (h0 << 4), w1 | (h1 << 4), w2 | (h2 << 4), w3 | (h3 << 4))
    body = quants, each_group(scales)
    return body, each_group(minimums), load_f16(source + SCALE), -load_f16(source + MINIMUM)


@njit(**INLINE)
def _apply(body: Any, row: int) -> Any:
    (w0, w1, w2, w3), scales = body
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)  # 8 * 31 * 127 fits 16 bits
    second = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    return dot2(dot2(zeros_i32x16(), first, scales), second, scales)


@njit(**INLINE)
def _vector(source: int, g: int, v: int) -> Any:
    low = nibble(source + ROWS * QUANTS, 8 * (g // 2) + v, g % 2)
    return low | bits_moved(source + ROWS * HIGH, v, 4 - g, 16)


FIELDS = arranged((SCALE, 2, 2), (MINIMUM, 2, 2), (SCALES, 12, 2), (HIGH, 32, 4), (QUANTS, 128, 4))
PANEL = Panel(
    FIELDS, open_block, _vector, dot_small, minimums_of, scale_of, 8, has_minimums=True, sharing=2, strips_from=20
)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
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


NATIVE = Native(decode, adding_minimums(_apply), total, _decode_row, GEOMETRY)
