"""What formats of 32-weight blocks share: two blocks fill one 512-bit vector, lanes 0-7 the first, 8-15 the second."""

from typing import Any

from numba import njit
from numba.extending import intrinsic

from experts.build import INLINE
from experts.dot import dot4
from experts.memory import load_i16, widened_halves
from experts.vec import (
    F32X16,
    I8X16,
    I8X64,
    I16X16,
    I16X32,
    converter,
    join_i16x16,
    literal,
    load_i8x16,
    shuffler,
    splat_i8x64,
    splat_i16x8,
    zeros_i32x16,
)

_words = converter(I8X64, I16X32, "bitcast")
_bytes = converter(I16X32, I8X64, "bitcast")
_each_twice = shuffler(I8X16, [*range(16), *range(16), *range(16, 32), *range(16, 32)])
_low_then_high = literal(I16X32, ([0] * 8 + [4] * 8) * 2)


@intrinsic
def halves_to_f32(typingctx: Any, bits: Any) -> Any:
    """16 float16 as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widened_halves(builder, args[0])

    return F32X16(I16X16), codegen


@njit(**INLINE)
def both_scales(first: int, second: int) -> Any:
    """The float16 scales at two addresses, 8 lanes each."""
    return halves_to_f32(join_i16x16(splat_i16x8(load_i16(first)), splat_i16x8(load_i16(second))))


@njit(**INLINE)
def offset_start(quants: Any) -> Any:
    """-128 * the sums of four weights: where a dot product with activations stored as q + 128 has to start."""
    return zeros_i32x16() - dot4(zeros_i32x16(), splat_i8x64(-128), quants)


@njit(**INLINE)
def nibble_pairs(first: int, second: int) -> Any:
    """Two blocks of 16 bytes: the low nibbles, then the high nibbles, of each."""
    packed = _each_twice(load_i8x16(first), load_i8x16(second))
    return _bytes(_words(packed) >> _low_then_high()) & 15
