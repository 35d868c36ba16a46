"""The frame that all formats share: decode a unit of weights once in registers, apply it to up to six rows.

A format gives two functions and a geometry. `decode(source, weights)` returns the unit as a tuple of vectors;
`apply(block, activations, total)` adds its product with one encoded row to a vector of 16 partial sums. The geometry is
(weights of a unit, its bytes, the bytes of the same columns in an encoded row, and from how many encoded rows on two
rows of weights go together). Units may span several blocks; the last one of a row may be cut, and `decode` is told how
many weights are there.

The sum of a row of weights with a row of activations is always made in the same order, whatever is computed with it.
"""

from typing import Any

from numba import njit, types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic

from experts.build import INLINE
from experts.memory import keep_order, load_i64, prefetch
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
    """Rows of weights times len(zeros) encoded rows; `work` holds the arguments of MULTIPLY.

    Two rows of weights go together where otherwise reading the encoded rows, from the first cache or beyond it, would
    take longer than the arithmetic.
    """
    weights, row_bytes, rows, columns, activations, out, out_bytes = work
    _, _, _, paired_from = geometry
    encoded = tuple_of_addresses(activations, zeros)
    row = 0
    if len(zeros) >= paired_from:
        while row + 1 < rows:
            source = weights + row * row_bytes
            first, second = _two_rows(decode, apply, zeros, geometry, (source, source + row_bytes, columns, encoded))
            for t in range(len(zeros)):
                store(out + t * out_bytes + 4 * row, total_f32(first[t]))
                store(out + t * out_bytes + 4 * row + 4, total_f32(second[t]))
            row += 2
    while row < rows:
        totals = _one_row(decode, apply, zeros, geometry, (weights + row * row_bytes, columns, encoded))
        for t in range(len(zeros)):
            store(out + t * out_bytes + 4 * row, total_f32(totals[t]))
        row += 1
    return 0


@njit(**INLINE)
def _request(source: int, num_bytes: int) -> None:
    for line in range(0, num_bytes, LINE_BYTES):
        prefetch(source + line)


@njit(**INLINE)
def _add_unit(apply: Any, block: Any, encoded: Any, offset: int, totals: Any) -> Any:
    for t in range(len(totals)):
        totals = tuple_setitem(totals, t, apply(block, encoded[t] + offset, totals[t]))
    return totals


@njit(**INLINE)
def _one_row(decode: Any, apply: Any, totals: Any, geometry: Any, work: Any) -> Any:
    unit_weights, unit_bytes, activation_bytes, _ = geometry
    source, columns, encoded = work
    offset = 0
    for _ in range(columns // unit_weights):
        _request(source + PREFETCH_BYTES, unit_bytes)
        totals = _add_unit(apply, decode(source, unit_weights), encoded, offset, totals)
        source += unit_bytes
        offset += activation_bytes
    if columns % unit_weights:
        totals = _add_unit(apply, decode(source, columns % unit_weights), encoded, offset, totals)
    return totals


@njit(**INLINE)
def _two_rows(decode: Any, apply: Any, zeros: Any, geometry: Any, work: Any) -> Any:
    """For each of two rows the same operations in the same order as _one_row."""
    unit_weights, unit_bytes, activation_bytes, _ = geometry
    first, second, columns, encoded = work
    totals, others = zeros, zeros
    offset = 0
    # Each row's stream goes on two rows below, so `ahead` jumps over a row where it comes to the end of one.
    row_bytes = second - first
    ahead = first + PREFETCH_BYTES // row_bytes * row_bytes + PREFETCH_BYTES
    left = row_bytes - PREFETCH_BYTES % row_bytes
    for _ in range(columns // unit_weights):
        _request(ahead, unit_bytes)
        _request(ahead + row_bytes, unit_bytes)
        ahead += unit_bytes
        left -= unit_bytes
        if left <= 0:
            ahead += row_bytes
            left += row_bytes
        totals = _add_unit(apply, decode(first, unit_weights), encoded, offset, totals)
        keep_order()  # decoding both rows at once would need more registers than there are
        others = _add_unit(apply, decode(second, unit_weights), encoded, offset, others)
        first += unit_bytes
        second += unit_bytes
        offset += activation_bytes
    if columns % unit_weights:
        totals = _add_unit(apply, decode(first, columns % unit_weights), encoded, offset, totals)
        others = _add_unit(apply, decode(second, columns % unit_weights), encoded, offset, others)
    return totals, others


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
