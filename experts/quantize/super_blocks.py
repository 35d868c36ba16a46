"""Super-blocks of 256 weights whose parts' scales are quantized too: Q4_K, Q5_K, Q6_K.

Source: ggml, `quantize_row_q4_K_ref`, `quantize_row_q5_K_ref`, `quantize_row_q6_K_ref`.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.build import KERNEL
from experts.quantize.halves import half_bits, half_value, store_half
from experts.quantize.searches import NOTHING, scale_and_minimum, signed_scale

SUPER_BLOCK = 256


@njit(nogil=True, **KERNEL)
def q4_k(x: Any, out: Any) -> None:
    """x float32 (blocks, 256) -> out uint8 (blocks, 144)."""
    codes = np.empty(SUPER_BLOCK, np.int64)
    for block in range(len(x)):
        _affine_codes(x[block], out[block], 15, -1.0, 21, codes)
        _store_nibbles(codes, out[block], 16)


@njit(nogil=True, **KERNEL)
def q5_k(x: Any, out: Any) -> None:
    """x float32 (blocks, 256) -> out uint8 (blocks, 176)."""
    codes = np.empty(SUPER_BLOCK, np.int64)
    for block in range(len(x)):
        target = out[block]
        _affine_codes(x[block], target, 31, -0.5, 16, codes)
        _store_nibbles(codes, target, 48)
        for i in range(32):
            fifth = 0
            for part in range(8):
                fifth |= (codes[32 * part + i] >> 4) << part
            target[16 + i] = fifth


@njit(nogil=True, **KERNEL)
def q6_k(x: Any, out: Any) -> None:
    """x float32 (blocks, 256) -> out uint8 (blocks, 210)."""
    codes, scales = np.empty(SUPER_BLOCK, np.int64), np.empty(16, np.float32)
    for block in range(len(x)):
        values, target = x[block], out[block]
        extreme = np.float32(0)
        for part in range(16):
            scales[part] = signed_scale(values.ctypes.data + 64 * part, 32)
            if abs(scales[part]) > abs(extreme):
                extreme = scales[part]
        if abs(extreme) < NOTHING:
            target[:] = 0
            continue
        inverse = np.float32(-128) / extreme
        bits = half_bits(np.float32(1) / inverse)
        scale = half_value(bits)
        store_half(target, 208, bits)
        for part in range(16):
            multiple = min(127, int(np.rint(inverse * scales[part])))
            target[192 + part] = np.uint8(np.int8(multiple))
            step = scale * np.float32(multiple)
            for i in range(16 * part, 16 * part + 16):
                code = int(np.rint(values[i] / step)) if step != 0 else 0
                codes[i] = max(-32, min(31, code)) + 32
        for half in range(2):
            for i in range(32):
                a, b = codes[128 * half + i], codes[128 * half + i + 32]
                c, d = codes[128 * half + i + 64], codes[128 * half + i + 96]
                target[64 * half + i] = a & 15 | (c & 15) << 4
                target[64 * half + i + 32] = b & 15 | (d & 15) << 4
                target[128 + 32 * half + i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6


@njit(nogil=True, **KERNEL)
def _affine_codes(values: Any, target: Any, levels: int, first: float, trials: int, codes: Any) -> None:
    """Writes the header of Q4_K and Q5_K: d, dmin, and eight scales and minimums of 6 bits; fills the codes."""
    scales, minimums = np.empty(8, np.float32), np.empty(8, np.float32)
    for part in range(8):
        scales[part], minimums[part] = scale_and_minimum(values.ctypes.data + 128 * part, levels, first, trials)
    most, most_minimum = max(np.float32(0), scales.max()), max(np.float32(0), minimums.max())
    bits, minimum_bits = half_bits(most / np.float32(63)), half_bits(most_minimum / np.float32(63))
    store_half(target, 0, bits)
    store_half(target, 2, minimum_bits)
    scale, minimum_scale = half_value(bits), half_value(minimum_bits)
    inverse = np.float32(63) / most if most > 0 else np.float32(0)
    minimum_inverse = np.float32(63) / most_minimum if most_minimum > 0 else np.float32(0)
    for part in range(8):
        a = min(63, int(np.rint(inverse * scales[part])))
        b = min(63, int(np.rint(minimum_inverse * minimums[part])))
        if part < 4:
            target[4 + part], target[8 + part] = a, b
        else:
            target[8 + part] = a & 15 | (b & 15) << 4
            target[part] |= (a >> 4) << 6
            target[4 + part] |= (b >> 4) << 6
        step, minimum = scale * np.float32(a), minimum_scale * np.float32(b)
        for i in range(32 * part, 32 * part + 32):
            code = int(np.rint((values[i] + minimum) / step)) if step != 0 else 0
            codes[i] = max(0, min(levels, code))


@njit(nogil=True, **KERNEL)
def _store_nibbles(codes: Any, target: Any, at: int) -> None:
    for pair in range(4):
        for i in range(32):
            low, high = codes[64 * pair + i], codes[64 * pair + 32 + i]
            target[at + 32 * pair + i] = low & 15 | (high & 15) << 4
