"""Sums over the lanes of several vectors at once."""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic

from experts.build import INLINE
from experts.memory import load_f32
from experts.vec import F32X16, I32X16, INT32, constant, shuffled

# Each level adds two vectors' halves side by side: lanes of pairs, of quarters, of halves, of the whole.
_LEVELS = (
    ([block + i for block in range(0, 16, 4) for i in (0, 16, 1, 17)],
     [block + i for block in range(0, 16, 4) for i in (2, 18, 3, 19)]),
    ([block + i for block in range(0, 16, 4) for i in (0, 1, 16, 17)],
     [block + i for block in range(0, 16, 4) for i in (2, 3, 18, 19)]),
    ([*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]),
    ([*range(4), *range(8, 12), *range(16, 20), *range(24, 28)],
     [*range(4, 8), *range(12, 16), *range(20, 24), *range(28, 32)]),
)  # fmt: skip


def _totals(builder: Any, vectors: list[Any]) -> Any:
    for first, second in _LEVELS:
        if len(vectors) % 2:
            vectors = [*vectors, vectors[-1]]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.add(shuffled(builder, a, b, first), shuffled(builder, a, b, second)) for a, b in pairs]
    return vectors[0]


def _total(builder: Any, vector: Any) -> Any:
    lanes = 16
    while lanes > 1:
        lanes //= 2
        low, high = (shuffled(builder, vector, vector, range(start, start + lanes)) for start in (0, lanes))
        vector = builder.add(low, high)
    scalar = builder.extract_element(vector, INT32(0))
    return builder.insert_element(constant(I32X16, [0] * 16), scalar, INT32(0))


@intrinsic
def lane_totals(typingctx: Any, vectors: Any) -> Any:
    """Lane t holds the sum of the lanes of the t-th of up to eight vectors of integers; the rest is of no meaning."""
    count = vectors.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [builder.extract_value(args[0], t) for t in range(count)]
        return _total(builder, parts[0]) if count == 1 else _totals(builder, parts)

    return I32X16(vectors), codegen


@intrinsic
def zero_sums(typingctx: Any, like: Any) -> Any:
    """A tuple of vectors of integers, all zero, as long as the tuple `like`."""
    result = types.UniTuple(I32X16, like.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, [constant(I32X16, [0] * 16)] * result.count)

    return result(like), codegen


@intrinsic
def _lanes(typingctx: Any, numbers: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector: Any = ir.Constant(F32X16.llvm, [0.0] * 16)
        for t in range(numbers.count):
            vector = builder.insert_element(vector, builder.extract_value(args[0], t), INT32(t))
        return vector

    return F32X16(numbers), codegen


@intrinsic
def _zero_floats(typingctx: Any, like: Any) -> Any:
    result = types.UniTuple(types.float32, like.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, [ir.Constant(ir.FloatType(), 0.0)] * result.count)

    return result(like), codegen


@njit(**INLINE)
def gathered(addresses: Any, offset: int) -> Any:
    """Lane t holds the float32 at addresses[t] + offset."""
    numbers = _zero_floats(addresses)
    for t in range(len(addresses)):
        numbers = tuple_setitem(numbers, t, load_f32(addresses[t] + offset))
    return _lanes(numbers)
