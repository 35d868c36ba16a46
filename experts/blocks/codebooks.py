"""What the formats with codebooks share: eight weights are one or two entries of a fixed table, with a sign bit each.

A format gives three functions: `entry(source, group, word)` returns eight magnitudes as the bytes of an int64,
`signs(source, group, word)` their signs as eight bits, and `scale(source, group, half)` the scale of 16 weights, below
128. In the kernel, magnitudes of at most 62 become unsigned weights by an offset of 64.
"""

from typing import Any

import gguf
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from experts.blocks.groups import adding, as_bytes, first_and_last, offset_products, products
from experts.build import INLINE
from experts.vec import (
    I8X8,
    I8X16,
    I32X16,
    I64X8,
    INT32,
    INT64,
    bytes_of,
    chosen,
    converter,
    shuffler,
    splat_i8x64,
    store,
    zeros_i32x16,
)

OFFSET = 64

_both = shuffler(I8X8, range(16))
_widened = converter(I8X16, I32X16, "zext")


def table(numbers: Any) -> Any:
    """An intrinsic that returns number i of a table, which becomes part of the kernel."""
    constants = [INT64(int(number)) for number in numbers]

    @intrinsic
    def number(typingctx: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            array = ir.Constant(ir.ArrayType(INT64, len(constants)), constants)
            place = cgutils.global_constant(builder.module, "codebook", array)
            return builder.load(builder.gep(place, [INT32(0), args[0]]))

        return types.int64(types.int64), codegen

    return number


def codebook(name: str) -> Any:
    """A table of the codebook of a format: the bytes of a number are the four or eight magnitudes of an entry."""
    quant = getattr(gguf.quants, name)
    quant.init_grid()
    magnitudes = np.ascontiguousarray(quant.grid.reshape(quant.grid_shape).astype(np.uint8))
    return table(magnitudes.view(np.uint64 if magnitudes.shape[1] == 8 else np.uint32).ravel())


# Seven signs, and the eighth that makes the number of negative weights even.
even_signs = table(seven | (seven.bit_count() & 1) << 7 for seven in range(128))


@intrinsic
def _vector(typingctx: Any, words: Any) -> Any:
    """Eight int64 as a vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector: Any = ir.Constant(I64X8.llvm, ir.Undefined)
        for i in range(8):
            vector = builder.insert_element(vector, builder.extract_value(args[0], i), INT32(i))
        return vector

    return I64X8(types.UniTuple(types.int64, 8)), codegen


@njit(**INLINE)
def _weights(entry: Any, signs: Any, source: int, word: int) -> Any:
    """One word of each group, with its signs, plus the offset."""
    words = (
        entry(source, 0, word),
        entry(source, 1, word),
        entry(source, 2, word),
        entry(source, 3, word),
        entry(source, 4, word),
        entry(source, 5, word),
        entry(source, 6, word),
        entry(source, 7, word),
    )
    magnitudes = as_bytes(_vector(words))
    negative = 0
    for group in range(8):
        negative |= signs(source, group, word) << (8 * group)
    return chosen(negative, splat_i8x64(OFFSET) - magnitudes, magnitudes + OFFSET)


@njit(**INLINE)
def _scales(scale: Any, source: int) -> Any:
    """The scales of the sixteens, as i32 lanes."""
    first, last = 0, 0
    for i in range(8):
        first |= scale(source, i // 2, i % 2) << (8 * i)
        last |= scale(source, 4 + i // 2, i % 2) << (8 * i)
    return _widened(_both(bytes_of(first), bytes_of(last)))


@njit(**INLINE)
def decode_block(entry: Any, signs: Any, scale: Any, source: int, d: float) -> Any:
    """Four vectors of weights, the scales of their groups' first and last sixteen, and what takes the offset back."""
    quants = (
        _weights(entry, signs, source, 0),
        _weights(entry, signs, source, 1),
        _weights(entry, signs, source, 2),
        _weights(entry, signs, source, 3),
    )
    scales = _scales(scale, source)
    first, last = first_and_last(scales)
    return (quants, first, last, (scales * -OFFSET) & 0xFFFF), d


@njit(**INLINE)
def _apply(body: Any, row: int) -> Any:
    (w0, w1, w2, w3), first_scales, last_scales, offsets = body
    first = products(products(zeros_i32x16(), w0, row, 0), w1, row, 1)
    last = products(products(zeros_i32x16(), w2, row, 2), w3, row, 3)
    return offset_products(offsets, row) + first * first_scales + last * last_scales


add = adding(_apply)


@njit(**INLINE)
def store_block(entry: Any, signs: Any, scale: Any, source: int, d: float, target: int) -> None:
    """The plain decoder of a block."""
    for group in range(8):
        for word in range(4):
            magnitudes, negative = entry(source, group, word), signs(source, group, word)
            weight_scale = d * np.float32(scale(source, group, word // 2))
            for i in range(8):
                sign = np.float32(1 - 2 * ((negative >> i) & 1))
                weight = weight_scale * np.float32((magnitudes >> (8 * i)) & 255) * sign
                store(target + 4 * (32 * group + 8 * word + i), weight)
