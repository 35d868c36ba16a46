"""The frame that all formats share: decode a unit of weights once in registers, apply it to up to six rows.

A format gives two functions and a geometry. `decode(source, weights)` returns the unit as a tuple of vectors;
`apply(block, activations, total)` adds its product with one encoded row to a vector of 16 partial sums. The geometry is
(weights of a unit, its bytes, the bytes of the same columns in an encoded row). Units may span several blocks; the
last one of a row may be cut, and `decode` is told how many weights are there.

The sum of a row of weights with a row of activations is always made in the same order, whatever is computed with it.
"""

from typing import Any

from numba import njit, types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic

from experts.build import INLINE
from experts.memory import load_i64, prefetch
from experts.vec import store, total_f32

MAX_ROWS = 6  # more rows in one pass spill registers
PREFETCH_BYTES = 2048  # how far ahead of the decoder memory is requested
LINE_BYTES = 64

# multiply(weights, row_bytes, rows, columns, activations, out, out_bytes): `activations` is the address of one address
# per encoded row; row t's results go to out + t * out_bytes, one float32 per row of weights.
MULTIPLY = types.int64(*[types.int64] * 7)
# decode(source, target, columns): one row of weights to float32.
DECODE = types.int64(*[types.int64] * 3)


@intrinsic(prefer_literal=True)
def repeat(typingctx: Any, value: Any, count: Any) -> Any:
    """A tuple of `count` equal values; `count` is a constant of the kernel."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result = types.UniTuple(value, count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, [args[0]] * result.count)

    return result(value, count), codegen


@njit(**INLINE)
def multiply(decode: Any, apply: Any, zeros: Any, geometry: Any, work: Any) -> int:
    """Rows of weights times len(zeros) encoded rows; `work` holds the arguments of MULTIPLY."""
    unit_weights, unit_bytes, activation_bytes = geometry
    weights, row_bytes, rows, columns, activations, out, out_bytes = work
    encoded = tuple_of_addresses(activations, zeros)
    units = columns // unit_weights
    rest = columns - units * unit_weights
    for row in range(rows):
        source = weights + row * row_bytes
        totals = zeros
        offset = 0
        for _ in range(units):
            for line in range(0, unit_bytes, LINE_BYTES):
                prefetch(source + PREFETCH_BYTES + line)
            block = decode(source, unit_weights)
            for t in range(len(zeros)):
                totals = tuple_setitem(totals, t, apply(block, encoded[t] + offset, totals[t]))
            source += unit_bytes
            offset += activation_bytes
        if rest > 0:
            block = decode(source, rest)
            for t in range(len(zeros)):
                totals = tuple_setitem(totals, t, apply(block, encoded[t] + offset, totals[t]))
        for t in range(len(zeros)):
            store(out + t * out_bytes + 4 * row, total_f32(totals[t]))
    return 0


@njit(**INLINE)
def tuple_of_addresses(table: int, like: Any) -> Any:
    """The first len(like) addresses of a table, kept in registers."""
    addresses = repeat_like(load_i64(table), like)
    for t in range(len(like)):
        addresses = tuple_setitem(addresses, t, load_i64(table + 8 * t))
    return addresses


@intrinsic
def repeat_like(typingctx: Any, value: Any, like: Any) -> Any:
    """A tuple of equal values, as long as the tuple `like`."""
    result = types.UniTuple(value, like.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, [args[0]] * result.count)

    return result(value, like), codegen
