"""F16: IEEE half precision weights, widened to float32 exactly."""

from typing import Any

from numba import njit

from experts.activations import F32_BYTES
from experts.blocks.floats import TILE_ROWS, apply, halves_to_f32, load_some_i16x16, total
from experts.build import INLINE
from experts.float_frame import FloatNative
from experts.memory import load_f16
from experts.vec import store

BYTES = 2
GEOMETRY = (16, 16 * BYTES, F32_BYTES, 2)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return halves_to_f32(load_some_i16x16(source, weights))


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for i in range(columns):
        store(target + 4 * i, load_f16(source + BYTES * i))


NATIVE = FloatNative(decode, apply, total, _decode_row, GEOMETRY, TILE_ROWS)
