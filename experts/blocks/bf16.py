"""BF16: the upper half of a float32."""

from typing import Any

from numba import cfunc, njit

from experts.activations import F32_BYTES
from experts.blocks.floats import add, load_some_i16x16, total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import bits_to_f32, load_u16
from experts.vec import I16X16, I32X16, bits_f32, converter, store, zeros_f32x16

BYTES = 2
GEOMETRY = (16, 16 * BYTES, F32_BYTES, 3)

_widened = converter(I16X16, I32X16, "zext")


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return bits_f32(_widened(load_some_i16x16(source, weights)) << 16)


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_bf16(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_bf16


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_bf16(source: int, target: int, columns: int) -> int:
        keyed(build)
        for i in range(columns):
            store(target + 4 * i, bits_to_f32(load_u16(source + BYTES * i) << 16))
        return 0

    return decode_bf16
