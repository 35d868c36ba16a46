"""Look-ups in codebooks: all entries of blocks of 256 weights at once, with their signs.

A codebook becomes an intrinsic of blocks' addresses and signs that returns the four vectors of each block: unsigned
bytes, vector j holding word j, eight weights, of each group of 32. Signs are an I64X8: in byte j of word g the eight
signs of word j of group g. Two ways give the same bytes:

- By permutes of tables in registers, where the processor has them. What is found is the levels of an entry's weights;
  they and the signs are brought together, a byte for each weight, which then picks the weight.
- By loads of whole entries, one by one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from experts import isa
from experts.codebook import Codebook, Numbers
from experts.permutes import chosen_bits, counted_table, large_table, small_table, swapped_nibbles, transposed, windows
from experts.vec import I8X64, I64X8, INT32, INT64, constant, pointer, shuffled

_INT8 = ir.IntType(8)
_FOUR_VECTORS = types.UniTuple(I8X64, 4)
_MOST_IN_REGISTERS = 1024  # entries; tables of more would be loaded anew each time


def look_ups(book: Codebook) -> Any:
    """An intrinsic that looks up two or four blocks, given tuples of their addresses and their signs."""

    @intrinsic
    def look_up(typingctx: Any, blocks: Any, signs: Any) -> Any:
        result = types.UniTuple(_FOUR_VECTORS, blocks.count)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            sources, signs = (cgutils.unpack_tuple(builder, arg) for arg in args)
            if not isa.permutes():
                vectors = [v for block in zip(sources, signs, strict=True) for v in _loaded(builder, book, *block)]
            elif book.levels.shape[1] == 8:
                vectors = _permuted_eights(builder, book, sources, signs)
            else:
                vectors = _permuted_fours(builder, book, sources, signs)
            parts = [context.make_tuple(builder, _FOUR_VECTORS, vectors[i : i + 4]) for i in range(0, len(vectors), 4)]
            return context.make_tuple(builder, result, parts)

        return result(blocks, signs), codegen

    return look_up


def _at(builder: Any, source: Any, offset: int, kind: Any) -> Any:
    return builder.load(pointer(builder, builder.add(source, INT64(offset)), kind), align=1)


# --- by permutes -----------------------------------------------------------------------------------------------------


def _all_before(builder: Any, values: Sequence[Any]) -> list[Any]:
    """The same values; what makes them comes before what uses them, for all of them.

    A processor looks ahead for about as many vector instructions as a block takes. So the look-ups of all blocks, which
    wait for nothing, come first, and nothing that follows has to wait long for them.
    """
    kind = ir.LiteralStructType([value.type for value in values])
    constraints = ["=v"] * len(values) + [str(i) for i in range(len(values))]
    function = ir.FunctionType(kind, [value.type for value in values])
    kept = builder.asm(function, "", ",".join(constraints), values, False)
    return [builder.extract_value(kept, i) for i in range(len(values))]


def _low_bytes(builder: Any, blocks: Sequence[Any], where: Numbers) -> Any:
    """The low bytes of the numbers of two blocks: number k of group g in lane 4 g + k, 32 lanes later for the other."""
    first, second = (_at(builder, block, where.low, ir.VectorType(_INT8, 8 * where.stride)) for block in blocks)
    lanes = [where.stride * (i // 4) + where.size * (i % 4) for i in range(32)]
    return shuffled(builder, first, second, lanes + [8 * where.stride + lane for lane in lanes])


def _high_bytes(builder: Any, blocks: Sequence[Any], where: Numbers) -> Any:
    """What stands above the low bytes, in the same lanes; bits that a number does not have are undefined."""
    if where.high is None:
        return _low_bytes(builder, blocks, replace(where, low=where.low + 1))
    pairs = ir.VectorType(ir.IntType(16 * where.high_size), 4)  # a word gets the bits of two groups
    first, second = (_at(builder, block, where.high, pairs) for block in blocks)
    words = builder.zext(shuffled(builder, first, second, range(8)), I64X8.llvm)
    return windows(builder, words, [8 * where.high_size * (i // 4) + where.high_step * (i % 4) for i in range(8)])


def _found_planes(builder: Any, book: Codebook, blocks: Sequence[Any]) -> list[Any]:
    """The low and the high bits of the levels of two blocks' entries, in the lanes of their numbers."""
    low = _low_bytes(builder, blocks, book.numbers)
    high = _high_bytes(builder, blocks, book.numbers) if book.numbers.bits > 8 else None
    planes = [book.plane(0), book.plane(1)]
    if len(book.levels) <= _MOST_IN_REGISTERS:
        return [large_table(builder, plane, low, high) for plane in planes]
    # Entries are sorted by their last weight, the last but one, ... so the last four need no table for each number.
    first = large_table(builder, planes[0] & 15 | (planes[1] & 15) << 4, low, high)
    last = counted_table(builder, planes[0] & 240 | planes[1] >> 4, low, high)
    return [chosen_bits(builder, 15, first, last), swapped_nibbles(builder, chosen_bits(builder, 15, last, first))]


def _permuted_eights(builder: Any, book: Codebook, blocks: Sequence[Any], signs: Sequence[Any]) -> list[Any]:
    """Entries of eight weights with three levels; the numbers of two blocks fill a register."""
    weights = book.by_level_and_sign(2)
    planes = [plane for i in range(0, len(blocks), 2) for plane in _found_planes(builder, book, blocks[i : i + 2])]
    planes = _all_before(builder, planes)
    vectors = []
    for block in range(len(blocks)):
        half = 32 * (block % 2)
        lanes = [64 * p + half + 4 * g + k for g in range(8) for k in range(4) for p in (0, 1)]
        low, high = planes[block // 2 * 2 :][:2]
        levels = shuffled(builder, low, high, lanes)  # bytes 2 j and 2 j + 1 of a group's word
        for word in (0, 2):
            # Six bytes for two words: transposed, a level and a sign for each of their weights.
            rows = [2 * word, 2 * word + 1, 64 + word, 2 * word + 2, 2 * word + 3, 64 + word + 1, 0, 0]
            lanes = [8 * g + row for g in range(8) for row in reversed(rows)]
            index = transposed(builder, shuffled(builder, levels, builder.bitcast(signs[block], I8X64.llvm), lanes))
            for shift in (0, 3):
                vectors.append(small_table(builder, [weights[n >> shift & 7] for n in range(64)], index))
    return vectors


def _permuted_fours(builder: Any, book: Codebook, blocks: Sequence[Any], signs: Sequence[Any]) -> list[Any]:
    """Entries of four weights with eight levels; the numbers of a block fill a register."""
    where, weights, entries = book.numbers, book.by_level_and_sign(4) * 2, book.packed(4)
    halves = []
    for source in blocks:
        low = _at(builder, source, where.low, I8X64.llvm)
        high = None
        if where.high is not None:
            bits = _at(builder, source, where.high, INT64)
            high = builder.zext(builder.bitcast(bits, ir.VectorType(ir.IntType(1), 64)), I8X64.llvm)
        halves += [large_table(builder, half, low, high) for half in (entries & 255, entries >> 8)]
    halves = _all_before(builder, halves)
    vectors = []
    for block in range(len(blocks)):
        low, high = halves[2 * block :][:2]
        for word in range(4):
            first = word // 2 * 4
            lanes = [64 * half + 8 * g + first + k for g in range(8) for k in range(4) for half in (0, 1)]
            words = shuffled(builder, low, high, lanes)  # the levels of two words
            level = windows(builder, words, [32 * (word % 2) + 4 * i for i in range(8)])
            sign = windows(builder, signs[block], [8 * word + i - 4 for i in range(8)])
            vectors.append(small_table(builder, weights, chosen_bits(builder, 15, level, sign)))
    return vectors


# --- by loads --------------------------------------------------------------------------------------------------------


def _number(builder: Any, source: Any, where: Numbers, group: int, k: int) -> Any:
    """Number k of a group, as int64."""
    kind = ir.IntType(8 * where.size)
    number = builder.zext(_at(builder, source, where.low + where.stride * group + where.size * k, kind), INT64)
    if where.high is None:
        return builder.and_(number, INT64((1 << where.bits) - 1))
    kind = ir.IntType(8 * where.high_size)
    high = builder.zext(_at(builder, source, where.high + where.high_size * group, kind), INT64)
    distance = 8 - where.high_step * k
    moved = builder.shl(high, INT64(distance)) if distance >= 0 else builder.lshr(high, INT64(-distance))
    return builder.or_(number, builder.and_(moved, INT64((1 << where.bits) - 256)))


def _loaded(builder: Any, book: Codebook, source: Any, signs: Any) -> list[Any]:
    """The four vectors of a block."""
    per_word = 8 // book.levels.shape[1]
    kind = ir.IntType(64 // per_word)
    packed = np.array(book.positive, np.uint8)[book.levels].view(f"<u{kind.width // 8}").ravel()
    table = ir.Constant(ir.ArrayType(kind, len(packed)), [kind(int(entry)) for entry in packed])
    base = cgutils.global_constant(builder.module, "codebook", table)
    signs = builder.bitcast(signs, I8X64.llvm)
    vectors = []
    for word in range(4):
        entries: Any = ir.Constant(ir.VectorType(kind, 8 * per_word), ir.Undefined)
        for i in range(8 * per_word):
            number = _number(builder, source, book.numbers, i // per_word, per_word * word + i % per_word)
            entry = builder.load(builder.gep(base, [INT32(0), number]))
            entries = builder.insert_element(entries, entry, INT32(i))
        positive = builder.bitcast(entries, I8X64.llvm)
        bits = shuffled(builder, signs, signs, [8 * (i // 8) + word for i in range(64)])
        bits = builder.and_(bits, constant(I8X64, [1 << i for i in range(8)] * 8))
        is_negative = builder.icmp_unsigned("!=", bits, constant(I8X64, [0] * 64))
        vectors.append(builder.select(is_negative, _negative(builder, book, positive), positive))
    return vectors


def _negative(builder: Any, book: Codebook, positive: Any) -> Any:
    """Weights with the other sign."""
    sums = {a + b for a, b in zip(book.positive, book.negative, strict=True)}
    if len(sums) == 1:
        return builder.sub(constant(I8X64, [*sums] * 64), positive)
    (difference,) = {a - b for a, b in zip(book.positive, book.negative, strict=True)}
    return builder.sub(positive, constant(I8X64, [difference] * 64))
