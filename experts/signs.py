"""Signs of the weights of a block, unpacked: in byte j of word g the eight signs of word j of group g."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.extending import intrinsic

from experts import isa
from experts.lookup import looked_up
from experts.permutes import large_table, windows
from experts.vec import I8X64, I64X8, constant


def even_signs(first: int, step: int) -> Any:
    """An intrinsic that takes words with four times seven signs, from bit `first` on every `step`.

    The eighth sign makes the number of negative weights even.
    """

    def eighth(builder: Any, sevens: Any) -> Any:
        nibbles = builder.xor(sevens, builder.lshr(sevens, constant(I64X8, [4] * 8)))
        nibbles = builder.and_(builder.bitcast(nibbles, I8X64.llvm), constant(I8X64, [15] * 64))
        odd = looked_up(builder, nibbles, [128 * (n.bit_count() & 1) for n in range(16)])
        return builder.or_(sevens, builder.bitcast(odd, I64X8.llvm))

    return _unpacked(first, step, 127, lambda seven: seven | (seven.bit_count() & 1) << 7, eighth)


def equal_signs(first: int, step: int) -> Any:
    """An intrinsic that takes words with a sign for each eight weights, from bit `first` on every `step`."""

    def repeated(builder: Any, ones: Any) -> Any:
        return builder.sub(builder.shl(ones, constant(I64X8, [8] * 8)), ones)

    return _unpacked(first, step, 1, lambda seven: 255 * (seven & 1), repeated)


def _unpacked(first: int, step: int, mask: int, eight: Callable[[int], int], eights: Callable[[Any, Any], Any]) -> Any:
    """Fields of at most seven bits as eight signs: `eight` of one field, `eights` of all of them in their bytes."""
    starts = [first + step * j for j in range(4)]
    table = np.array([eight(seven) for seven in range(128)])

    @intrinsic
    def unpack(typingctx: Any, words: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            if isa.permutes():
                fields = windows(builder, args[0], starts + starts)
                return builder.bitcast(large_table(builder, table, fields), I64X8.llvm)
            return eights(builder, _fields(builder, args[0], starts, mask))

        return I64X8(I64X8), codegen

    return unpack


def _fields(builder: Any, words: Any, starts: Sequence[int], mask: int) -> Any:
    """In byte j of each word its bits from starts[j] on."""
    fields = constant(I64X8, [0] * 8)
    for j, start in enumerate(starts):
        distance = start - 8 * j
        shift = builder.lshr if distance >= 0 else builder.shl
        moved = shift(words, constant(I64X8, [abs(distance)] * 8))
        fields = builder.or_(fields, builder.and_(moved, constant(I64X8, [mask << (8 * j)] * 8)))
    return fields
