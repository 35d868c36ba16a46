"""F16: IEEE half precision weights, widened to float32 exactly."""

from typing import Any

from numba import cfunc, njit

from experts.activations import F32_BYTES
from experts.blocks.floats import add, halves_to_f32, load_some_i16x16, total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16
from experts.vec import store, zeros_f32x16

BYTES = 2
GEOMETRY = (16, 16 * BYTES, F32_BYTES, 3)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return halves_to_f32(load_some_i16x16(source, weights))


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_f16(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_f16


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_f16(source: int, target: int, columns: int) -> int:
        keyed(build)
        for i in range(columns):
            store(target + 4 * i, load_f16(source + BYTES * i))
        return 0

    return decode_f16
