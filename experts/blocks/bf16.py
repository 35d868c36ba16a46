"""BF16: the upper half of a float32."""

from typing import Any

from numba import njit

from experts.activations import F32_BYTES
from experts.blocks.floats import TILE_ROWS, apply, load_some_i16x16, total
from experts.build import INLINE
from experts.float_frame import FloatNative
from experts.memory import bits_to_f32, load_u16
from experts.vec import I16X16, I32X16, bits_f32, converter, store

BYTES = 2
GEOMETRY = (16, 16 * BYTES, F32_BYTES, 2)

_widened = converter(I16X16, I32X16, "zext")


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return bits_f32(_widened(load_some_i16x16(source, weights)) << 16)


@njit(**INLINE)
def _decode_row(source: int, target: int, columns: int) -> None:
    for i in range(columns):
        store(target + 4 * i, bits_to_f32(load_u16(source + BYTES * i) << 16))


NATIVE = FloatNative(decode, apply, total, _decode_row, GEOMETRY, TILE_ROWS)
