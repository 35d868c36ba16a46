"""F32: plain float32 weights."""

from typing import Any

from numba import njit

from experts.activations import F32_BYTES
from experts.blocks.floats import TILE_ROWS, apply, load_some_f32x16, total
from experts.build import INLINE
from experts.float_frame import FloatNative
from experts.memory import load_f32
from experts.vec import store

BYTES = 4
GEOMETRY = (16, 16 * BYTES, F32_BYTES, 1)


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return load_some_f32x16(source, weights)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for i in range(columns):
        store(target + 4 * i, load_f32(source + BYTES * i))


NATIVE = FloatNative(decode, apply, total, _decode_row, GEOMETRY, TILE_ROWS)
