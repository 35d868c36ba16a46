"""The interleaved layout: panels of 16 rows of weights whose blocks lie side by side, a lane of a vector for each row.

A vector holds four neighbouring weights of each row, which meet four activations as one broadcast number. Nothing is
added across lanes, the scales of 16 rows are unpacked at once, and a panel is one stream of memory.

A panel holds the blocks of its rows, block after block, and in a block field after field. Of each field the first piece
of all rows comes first, then the second: a permutation of the bytes, of the same size. Fields that are read together
take turns, so that a panel is read from its beginning to its end: processors foresee that (Q6_K ran at 48 GB/s so, at
18 and 23 with its fields one after the other, at 38 with requests beside). Q3_K reads its high bits twice, and ran at
16 GB/s without requests, at 35 with them. Blocks of 32 are in the order of the eight chains in which the frame adds
them: 0, 8, 16, ..., 1, 9, 17, ... So sums are made in the frame's order and have the frame's bits.

Legend: t one of m encoded rows; g a group of 32 of the 256 weights of a block; v one of its eight vectors.
"""

from dataclasses import dataclass
from typing import Any

from numba import cfunc, njit
from numba.cpython.unsafe.tuple import tuple_setitem

from experts import isa
from experts.build import INLINE, KERNEL, keyed
from experts.products.activations import (
    CHAINED_BYTES,
    CHAINED_SCALE,
    CHAINED_SCALED_SUM,
    CHAINS,
    X32_BYTES,
    X32_SUMS_BYTES,
    X256_BYTES,
    X256_SCALE,
    X256_SUMS,
    X256_SUMS_OF_32,
    chained,
)
from experts.products.frame import LINE_BYTES, MAX_ROWS, MULTIPLY, repeat, tuple_of_addresses
from experts.products.parts import part
from experts.simd.dot import dot2, dot4, dot4_wide
from experts.simd.float_lanes import fma
from experts.simd.memory import keep_order, load_f32, load_u32, prefetch_level_2
from experts.simd.stack import room
from experts.simd.sums import zero_sums
from experts.simd.vec import (
    I8X64,
    I32X16,
    converter,
    load_f32x16,
    splat_f32x16,
    splat_i8x64,
    splat_i32x16,
    store,
    to_f32x16,
    zeros_f32x16,
    zeros_i32x16,
)

ROWS = 16  # of weights in a panel
_SCRATCH_BYTES = CHAINS * MAX_ROWS * 64
# How far behind the end of a block memory is requested. Blocks of 256 do that for more rows than _FEW, whose arithmetic
# keeps processors from looking far ahead (six rows of Q6_K took 12.3 ms without, 5.9 with requests). Measured on Zen 4.
# Blocks of 32 always do: where arithmetic is light, up to a format's `light_rows`, just ahead, and processors do the
# rest; else far ahead. On one core a row of Q8_0 came from memory at 30 and 20 GB/s so, four of Q5_0 at 12 and 18.
_AHEAD_256, _AHEAD_32, _NEXT_32 = 4096, 8192, 512
_FEW = 3

# Of each: offset and bytes in a row's block, bytes of a piece, where 16 rows of it begin, and from piece to piece.
Fields = tuple[tuple[int, int, int, int, int], ...]


@njit(**INLINE)
def column(g: int, v: int) -> Any:
    """Where columns 4 v to 4 v + 3 of a group lie in an encoded unit."""
    return 64 * (v // 2) + 8 * g + 4 * (v % 2)


@njit(**INLINE)
def column_of_codes(g: int, v: int) -> Any:
    """Where of int8x256codes those columns lie that vector v of a group meets: the first four are its first half."""
    return 64 * (v % 4) + 8 * g + 4 * (v // 4)


@dataclass(frozen=True)
class Panel:
    """How a format lies in panels, and how a vector of it is decoded.

    Attributes:
        fields: What `arranged` makes of a block's fields.
        open_block: What is needed once for a block of 16 rows. 256: of (source, scratch) the vectors d and -dmin, or d
            twice; it may unpack into `scratch`. 32: of (source) scales and minimums or scales again.
        vector: Of (source, g, v), for blocks of 32 of (source, v): 64 bytes of weights.
        vector_of_one: 256 only. As `vector`, faster for one row, whose kernel knows g modulo `sharing`; None: the same.
        dot: One of the dot_... functions below, as the weights need.
        offsets: 256 only. Of (source, scratch, n): what meets the sums of activations 2 n and 2 n + 1, as the halves of
            an i32: sums of 16 or, where groups of 32 have one scale, of 32.
        scale: 256 only. Of (source, scratch, i): the i32 scales of the vectors from 4 * i on, group after group.
        vectors_per_scale: 256 only: 4, or 8 where groups of 32 have one scale.
        has_minimums: Whether `offsets` are minimums, with a scale of their own.
        offset: 256 without minimums: what was added to weights to make them unsigned; `offsets` are the scales then.
        narrow: 256 only: whether the products that meet a scale fit 16 bits, so that scaling and adding them is one
            instruction. Scales then are 16 bits and zeros above, negative ones too.
        sharing: 256 only: how many neighbouring groups share bytes, so that decoding them together is cheaper.
        sharing_of_many: 256 only: at most how many of these are decoded together for more than three rows.
        requested: 256 only: how far behind the end of a block memory is requested for one row, and for few whether at
            all; 0 where processors look ahead themselves, blocks being large beside their arithmetic.
        light_rows: 32 only: up to how many rows arithmetic takes far less time than memory.
        strips_from: from how many rows on, at least seven, with blocks of 32 ten, unpacking (see tiles.py) is faster
            than passes.
        pass_rows: how many rows a pass takes where there are several.
        column: 256 only: the columns that vector v of group g meets, as one of the functions above says.
    """

    fields: Fields
    open_block: Any
    vector: Any
    dot: Any
    offsets: Any = None
    scale: Any = None
    vectors_per_scale: int = 4
    has_minimums: bool = False
    offset: int = 0
    narrow: bool = False
    sharing: int = 1
    sharing_of_many: int = 4
    requested: int = 0
    light_rows: int = 0
    strips_from: int = 12
    pass_rows: int = MAX_ROWS
    column: Any = column
    vector_of_one: Any = None


def arranged(*runs: Any) -> Fields:
    """Where the fields of a block go, one after the other.

    Args:
        runs: For each field its offset and bytes in a row's block, and the bytes of its pieces; or a tuple of fields of
            equally many pieces, which take turns. Together they are the block.
    """
    fields, start = [], 0
    for run in runs:
        turns = run if isinstance(run[0], tuple) else (run,)
        step, place = ROWS * sum(piece for _, _, piece in turns), start
        for offset, num_bytes, piece in turns:
            fields.append((offset, num_bytes, piece, place, step))
            place += ROWS * piece
        start += ROWS * sum(num_bytes for _, num_bytes, _ in turns)
    return tuple(fields)


def places(fields: Fields) -> tuple[int, ...]:
    """Where each field begins in a block of 16 rows."""
    return tuple(place for _, _, _, place, _ in fields)


_as_bytes = converter(I32X16, I8X64, "bitcast")


@njit(**INLINE)
def four_bytes(address: int) -> Any:
    """Four bytes in every lane."""
    return splat_i32x16(load_u32(address))


@njit(**INLINE)
def dot_small(sums: Any, weights: Any, activations: Any) -> Any:
    """Unsigned weights of at most 128 times signed activations."""
    return dot4(sums, weights, activations)


@njit(**INLINE)
def dot_any(sums: Any, weights: Any, activations: Any) -> Any:
    """Any unsigned weights times signed activations."""
    return dot4_wide(sums, weights, activations)


@njit(**INLINE)
def dot_signed_small(sums: Any, weights: Any, activations: Any) -> Any:
    """Signed weights of at most 16 in magnitude, so that the sum of eight fits a byte, times unsigned activations."""
    return dot4(sums, activations, weights)


@njit(**INLINE)
def dot_signed(sums: Any, weights: Any, activations: Any) -> Any:
    """Any signed weights times unsigned activations."""
    return dot4_wide(sums, activations, weights)


@njit(**INLINE)
def _request(source: int, num_bytes: int) -> None:
    """Asks for memory to come to the second cache: requests to the first one hold up its few loads on their way.

    On Zen 4 one row of Q8_0 took 4.2 ms so, 4.7 without requests and 6.7 with requests to the first cache, one row of
    Q4_K 2.3, 2.4 and 2.7.
    """
    for line in range(0, num_bytes, LINE_BYTES):
        prefetch_level_2(source + line)


# --- blocks of 256 ---------------------------------------------------------------------------------------------------


@njit(**INLINE)
def _block_256(
    open_block: Any,
    offsets: Any,
    vector: Any,
    scale: Any,
    dot: Any,
    place: Any,
    shape: Any,
    places: Any,
    rows: Any,
    zeros: Any,
    totals: Any,
) -> Any:
    """Adds the products of one block of 16 rows; `zeros` are as many as products that are made together."""
    together, vectors_per_scale, has_minimums, offset, narrow, block_bytes, requested = shape
    of_sums = X256_SUMS if vectors_per_scale == 4 else X256_SUMS_OF_32
    source, scratch, at = places
    m = len(rows)
    d, negative_dmin = open_block(source, scratch)
    sums, minimums = zero_sums(rows), zero_sums(rows)
    for first_group in range(0, 8, together):
        if requested:
            part_bytes = together * block_bytes // 8
            _request(source + block_bytes + requested + first_group // together * part_bytes, part_bytes)
        for g in range(first_group, first_group + together):
            if vectors_per_scale == 8 and g % 2 == 0:
                continue  # groups with one scale go in pairs
            n = g if vectors_per_scale == 4 else g >> 1
            pair = offsets(source, scratch, n)
            for t in range(m):
                minimums = tuple_setitem(
                    minimums, t, dot2(minimums[t], pair, four_bytes(rows[t] + at + of_sums + 4 * n))
                )
        for first in range(0, 8, vectors_per_scale):
            if together == 4 and not requested:
                keep_order()  # processors look ahead of memory read in order: two rows of Q6_K took four times as long
            products = zeros
            for v in range(first, first + vectors_per_scale):
                for j in range(together):
                    weights = vector(source, first_group + j, v)
                    for t in range(m):
                        four = _as_bytes(four_bytes(rows[t] + at + place(first_group + j, v)))
                        products = tuple_setitem(products, j * m + t, dot(products[j * m + t], weights, four))
            for j in range(together):
                scales = scale(source, scratch, (8 * (first_group + j) + first) // vectors_per_scale)
                for t in range(m):
                    scaled = products[j * m + t]
                    sums = tuple_setitem(
                        sums, t, dot2(sums[t], scaled, scales) if narrow else sums[t] + scaled * scales
                    )
    for t in range(m):
        x_scale = load_f32(rows[t] + at + X256_SCALE)
        if has_minimums:
            totals = tuple_setitem(totals, t, fma(to_f32x16(minimums[t]), negative_dmin * x_scale, totals[t]))
            totals = tuple_setitem(totals, t, fma(to_f32x16(sums[t]), d * x_scale, totals[t]))
        else:
            totals = tuple_setitem(totals, t, fma(to_f32x16(sums[t] - minimums[t] * offset), d * x_scale, totals[t]))
    return totals


def make_multiply_256(record: str, panel: Panel, block_bytes: int, m: int, build: int) -> Any:
    """The kernel for m rows of a format of 256-weight blocks."""
    few = 4 if isa.level() == "avx512vnni" else _FEW  # without VNNI a product takes more registers
    most = 4 if m <= few else 2  # more products spill registers
    together = min(panel.sharing, most, panel.sharing_of_many if m > _FEW else most)
    count, panel_bytes = m * together, ROWS * block_bytes
    vector_name = "vector_of_one" if m == 1 and panel.vector_of_one else "vector"
    requested = panel.requested if m == 1 else _AHEAD_256 if panel.requested or m > _FEW else 0
    shape = (
        together,
        panel.vectors_per_scale,
        panel.has_minimums,
        panel.offset,
        panel.narrow,
        panel_bytes,
        requested,
    )

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_panels_256(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        open_block, dot, place = part(record, "open_block"), part(record, "dot"), part(record, "column")
        offsets, vector, scale = (
            part(record, "offsets"),
            part(record, vector_name),
            part(record, "scale"),
        )
        zeros, no_products = repeat(zeros_f32x16(), m), repeat(zeros_i32x16(), count)
        encoded = tuple_of_addresses(activations, zeros)
        scratch = room(_SCRATCH_BYTES)
        source = weights
        for row in range(0, rows, ROWS):
            totals = zeros
            for block in range(columns // 256):
                places = (source, scratch, block * X256_BYTES)
                totals = _block_256(
                    open_block, offsets, vector, scale, dot, place, shape, places, encoded, no_products, totals
                )
                source += panel_bytes
            for t in range(m):
                store(out + t * out_bytes + 4 * row, totals[t])
        return 0

    return multiply_panels_256


# --- blocks of 32 ----------------------------------------------------------------------------------------------------


@njit(**INLINE)
def _block_32(open_block: Any, vector: Any, dot: Any, shape: Any, places: Any, rows: Any, totals: Any) -> Any:
    """Adds the products of one block of 16 rows to a chain."""
    with_minimums, small = shape
    source, at = places
    scales, minimums = open_block(source)
    sums, offset, sum_of_weights = zero_sums(rows), zeros_i32x16(), splat_i8x64(0)
    in_activations = splat_i8x64(-128)  # as an unsigned byte 128, what they have added
    for v in range(8):
        weights = vector(source, v)
        if small:
            sum_of_weights = sum_of_weights + weights
        elif not with_minimums:
            offset = dot(offset, weights, in_activations)
        for t in range(len(rows)):
            sums = tuple_setitem(sums, t, dot(sums[t], weights, _as_bytes(four_bytes(rows[t] + at + 4 * v))))
    if small:
        offset = dot(offset, sum_of_weights, in_activations)
    for t in range(len(rows)):
        factor = scales * load_f32(rows[t] + at + CHAINED_SCALE)
        totals = tuple_setitem(totals, t, fma(to_f32x16(sums[t] - offset), factor, totals[t]))
        if with_minimums:
            scaled_sum = splat_f32x16(load_f32(rows[t] + at + CHAINED_SCALED_SUM))
            totals = tuple_setitem(totals, t, fma(minimums, scaled_sum, totals[t]))
    return totals


@njit(**INLINE)
def added(chains: int) -> Any:
    """The eight chains of a row, added by halving as the frame does."""
    a = load_f32x16(chains) + load_f32x16(chains + 256), load_f32x16(chains + 64) + load_f32x16(chains + 320)
    b = load_f32x16(chains + 128) + load_f32x16(chains + 384), load_f32x16(chains + 192) + load_f32x16(chains + 448)
    return (a[0] + b[0]) + (a[1] + b[1])


def make_multiply_32(record: str, panel: Panel, block_bytes: int, m: int, build: int) -> Any:
    """The kernel for m rows of a format of 32-weight blocks."""
    panel_bytes, shape = ROWS * block_bytes, (panel.has_minimums, panel.dot is dot_signed_small)
    unit_bytes = X32_SUMS_BYTES if panel.has_minimums else X32_BYTES
    ahead = panel_bytes + (_NEXT_32 if m <= panel.light_rows else _AHEAD_32)

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_panels_32(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        open_block, vector, dot = (
            part(record, "open_block"),
            part(record, "vector"),
            part(record, "dot"),
        )
        zeros = repeat(zeros_f32x16(), m)
        encoded = tuple_of_addresses(activations, zeros)
        chains = room(_SCRATCH_BYTES)
        source = weights
        for row in range(0, rows, ROWS):
            at = chained(columns, unit_bytes)
            for chain in range(CHAINS):
                totals = zeros
                for _ in range(chain, columns // 32, CHAINS):
                    _request(source + ahead, panel_bytes)
                    totals = _block_32(open_block, vector, dot, shape, (source, at), encoded, totals)
                    source += panel_bytes
                    at += CHAINED_BYTES
                for t in range(m):
                    store(chains + 64 * (CHAINS * t + chain), totals[t])
            for t in range(m):
                store(out + t * out_bytes + 4 * row, added(chains + 64 * CHAINS * t))
        return 0

    return multiply_panels_32


def make_multiply(record: str, panel: Panel, block_weights: int, block_bytes: int, m: int, build: int) -> Any:
    """The kernel for m rows over the panels of the format with this record."""
    make = make_multiply_256 if block_weights == 256 else make_multiply_32
    return make(record, panel, block_bytes, m, build)
