"""Blocks of 32 weights with one scale, taken from the largest weight: Q8_0, Q5_0, Q4_0.

Source: ggml, `quantize_row_q8_0_ref`, `quantize_row_q5_0_ref`, `quantize_row_q4_0_ref`.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.build import KERNEL
from experts.quantize.halves import half_bits, store_half

BLOCK = 32


@njit(nogil=True, **KERNEL)
def q8_0(x: Any, out: Any) -> None:
    """x float32 (blocks, 32) -> out uint8 (blocks, 34)."""
    for block in range(len(x)):
        values, target = x[block], out[block]
        most = np.float32(0)
        for i in range(BLOCK):
            most = max(most, abs(values[i]))
        scale = most / np.float32(127)
        inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
        store_half(target, 0, half_bits(scale))
        for i in range(BLOCK):
            value = values[i] * inverse
            whole = np.floor(abs(value))
            whole += np.floor(2 * (abs(value) - whole))  # half away from zero
            target[2 + i] = np.uint8(np.int8(whole if value >= 0 else -whole))


@njit(nogil=True, **KERNEL)
def q5_0(x: Any, out: Any) -> None:
    """x float32 (blocks, 32) -> out uint8 (blocks, 22)."""
    codes = np.empty(BLOCK, np.int64)
    for block in range(len(x)):
        target = out[block]
        _signed_codes(x[block], codes, target, 16)
        high = 0
        for i in range(16):
            target[6 + i] = codes[i] & 15 | (codes[i + 16] & 15) << 4
            high |= (codes[i] >> 4) << i | (codes[i + 16] >> 4) << (i + 16)
        for i in range(4):
            target[2 + i] = (high >> 8 * i) & 255


@njit(nogil=True, **KERNEL)
def q4_0(x: Any, out: Any) -> None:
    """x float32 (blocks, 32) -> out uint8 (blocks, 18)."""
    codes = np.empty(BLOCK, np.int64)
    for block in range(len(x)):
        target = out[block]
        _signed_codes(x[block], codes, target, 8)
        for i in range(16):
            target[2 + i] = codes[i] | codes[i + 16] << 4


@njit(nogil=True, **KERNEL)
def _signed_codes(values: Any, codes: Any, target: Any, levels: int) -> None:
    """Codes 0 .. 2 * levels - 1 of weights (code - levels) * scale; the largest weight becomes -levels."""
    extreme = np.float32(0)
    for i in range(BLOCK):
        if abs(values[i]) > abs(extreme):
            extreme = values[i]
    scale = extreme / np.float32(-levels)
    inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
    store_half(target, 0, half_bits(scale))
    for i in range(BLOCK):
        codes[i] = min(2 * levels - 1, int(values[i] * inverse + np.float32(levels + 0.5)))
