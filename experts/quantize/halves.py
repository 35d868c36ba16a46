"""float32 to the bits of float16 and back inside numba, which has no float16 on the processor."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from experts.build import INLINE


@intrinsic
def _bits(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(32)), ir.IntType(64))

    return types.int64(types.float32), codegen


@intrinsic
def _number(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), codegen


@njit(**INLINE)
def half_bits(value: float) -> Any:
    """Bits of the nearest float16, half to even; infinity beyond its range.

    Source: ggml, `ggml_compute_fp32_to_fp16`.
    """
    bits = _bits(np.float32(value))
    doubled = (bits << 1) & 0xFFFFFFFF
    base = (np.float32(abs(value)) * np.float32(2.0**112)) * np.float32(2.0**-110)
    bias = max(doubled & 0xFF000000, 0x71000000)
    rounded = _bits(_number((bias >> 1) + 0x07800000) + base)
    magnitude = ((rounded >> 13) & 0x7C00) + (rounded & 0x0FFF)
    return (bits >> 16) & 0x8000 | (0x7E00 if doubled > 0xFF000000 else magnitude)


@njit(**INLINE)
def half_value(bits: int) -> Any:
    """What float16 bits stand for, infinity and NaN aside."""
    magnitude = _number((bits & 0x7FFF) << 13) * np.float32(2.0**112)
    return -magnitude if bits & 0x8000 else magnitude


@njit(**INLINE)
def store_half(out: Any, at: int, bits: int) -> None:
    out[at] = bits & 255
    out[at + 1] = bits >> 8
