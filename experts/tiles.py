"""Products for many rows, as prompts have: a tile of weights is unpacked once, then every row meets it in cache.

A tile is 16 rows of 256 columns, a lane of a vector for each row of weights as in panels.py: their bytes, and what
scales them as whole vectors. Formats only differ in how it is unpacked. Rows as files have them are first put into
panels, a block at a time, so both layouts share what follows.

The integers of a block are exact in any order; floats are added in the order of panels.py, with running totals kept in
memory from tile to tile. So a row has the same bits as in any other product.

Legend: t one of m encoded rows; g a group of 32 of the 256 columns; v one of its eight vectors.
"""

from typing import Any

from numba import cfunc, njit, types
from numba.cpython.unsafe.tuple import tuple_setitem

from experts.activations import (
    X32_SCALED_SUMS,
    X32_SCALES,
    X256_SCALE,
    X256_SUMS,
)
from experts.build import INLINE, KERNEL, keyed
from experts.dot import dot2
from experts.float_lanes import fma
from experts.frame import repeat
from experts.memory import load_f32, load_i64
from experts.packing import pack_block
from experts.panels import CHAINS, ROWS, Panel, column, four_bytes
from experts.parts import part
from experts.stack import room
from experts.sums import zero_sums
from experts.vec import (
    I8X64,
    I32X16,
    converter,
    f32_bits,
    load_f32x16,
    load_i8x64,
    splat_f32x16,
    splat_i8x64,
    store,
    to_f32x16,
    zeros_i32x16,
)

COLUMNS = 256
_VECTOR = 64

# unpack(panel, row_bytes, columns, index, tile): the tile of columns 256 * index and so on of 16 rows of weights.
UNPACK = types.int64(*[types.int64] * 5)
# apply(tile, activations, count, offset, totals, columns): adds a tile's products with `count` encoded rows, which lie
# at `offset` from the addresses in the table `activations`; `columns` is how many the tile has. Rows meet a tile in
# threes and fours, which make up every number from 6 on.
APPLY = types.int64(*[types.int64] * 6)

# A tile: 64 vectors of weights, group after group, then vectors of numbers for the groups and for all.
_OFFSETS = 64 * _VECTOR
_SCALES = _OFFSETS + 8 * _VECTOR
_D = _SCALES + 16 * _VECTOR
_NEGATIVE_DMIN = _D + _VECTOR
TILE_BYTES = _NEGATIVE_DMIN + _VECTOR
_MINIMUMS = _SCALES + 8 * _VECTOR  # of blocks of 32
TOTAL_BYTES = CHAINS * _VECTOR  # the most that the running totals of an encoded row take
_OPENED_BYTES = 4 * _VECTOR  # what a format may unpack of a block

_as_bytes = converter(I32X16, I8X64, "bitcast")


@njit(**INLINE)
def _integers(address: int) -> Any:
    return f32_bits(load_f32x16(address))


@njit(**INLINE)
def _add(total: int, integers: Any, factor: Any) -> None:
    """Adds scaled integers to a running total."""
    store(total, fma(to_f32x16(integers), factor, load_f32x16(total)))


# --- blocks of 256 ---------------------------------------------------------------------------------------------------


@njit(**INLINE)
def _unpack_256(open_block: Any, offsets: Any, vector: Any, scale: Any, vectors_per_scale: int, places: Any) -> None:
    source, opened, tile = places
    d, negative_dmin = open_block(source, opened)
    store(tile + _D, d)
    store(tile + _NEGATIVE_DMIN, negative_dmin)
    for g in range(8):
        store(tile + _OFFSETS + _VECTOR * g, offsets(source, opened, g))
        for v in range(8):
            store(tile + _VECTOR * (8 * g + v), vector(source, g, v))
    for i in range(64 // vectors_per_scale):
        store(tile + _SCALES + _VECTOR * i, scale(source, opened, i))


@njit(**INLINE)
def _apply_256(dot: Any, vectors_per_scale: int, has_minimums: bool, tile: int, rows: Any, totals: int) -> None:
    """Adds the products of a tile with len(rows) rows to their totals, a vector each."""
    sums = zero_sums(rows)
    for g in range(8):
        pair = _integers(tile + _OFFSETS + _VECTOR * g)
        for t in range(len(rows)):
            sums = tuple_setitem(sums, t, dot2(sums[t], pair, four_bytes(rows[t] + X256_SUMS + 4 * g)))
    if has_minimums:
        for t in range(len(rows)):
            factor = load_f32x16(tile + _NEGATIVE_DMIN) * load_f32(rows[t] + X256_SCALE)
            _add(totals + _VECTOR * t, sums[t], factor)
        sums = zero_sums(rows)
    for first in range(0, 64, vectors_per_scale):
        products = zero_sums(rows)
        for i in range(first, first + vectors_per_scale):
            weights = load_i8x64(tile + _VECTOR * i)
            for t in range(len(rows)):
                four = _as_bytes(four_bytes(rows[t] + column(i // 8, i % 8)))
                products = tuple_setitem(products, t, dot(products[t], weights, four))
        scales = _integers(tile + _SCALES + _VECTOR * (first // vectors_per_scale))
        for t in range(len(rows)):
            sums = tuple_setitem(sums, t, sums[t] + products[t] * scales)
    for t in range(len(rows)):
        _add(totals + _VECTOR * t, sums[t], load_f32x16(tile + _D) * load_f32(rows[t] + X256_SCALE))


# --- blocks of 32 ----------------------------------------------------------------------------------------------------


@njit(**INLINE)
def _unpack_32(open_block: Any, vector: Any, dot: Any, has_minimums: bool, source: int, chain: int, tile: int) -> None:
    """One of the blocks of a tile, which go to one chain of totals each."""
    scales, minimums = open_block(source)
    store(tile + _SCALES + _VECTOR * chain, scales)
    store(tile + _MINIMUMS + _VECTOR * chain, minimums)
    offset = zeros_i32x16()
    for v in range(8):
        weights = vector(source, v)
        store(tile + _VECTOR * (8 * chain + v), weights)
        if not has_minimums:
            offset = dot(offset, weights, splat_i8x64(-128))  # as an unsigned byte 128, what activations have added
    store(tile + _OFFSETS + _VECTOR * chain, zeros_i32x16() - offset)


@njit(**INLINE)
def _apply_32(dot: Any, has_minimums: bool, tile: int, chains: int, rows: Any, totals: int) -> None:
    """Adds the products of a tile with len(rows) rows to their totals, a vector for each chain."""
    for chain in range(chains):
        start = _integers(tile + _OFFSETS + _VECTOR * chain)
        sums = zero_sums(rows)
        for t in range(len(rows)):
            sums = tuple_setitem(sums, t, start)
        for v in range(8):
            weights = load_i8x64(tile + _VECTOR * (8 * chain + v))
            for t in range(len(rows)):
                sums = tuple_setitem(sums, t, dot(sums[t], weights, _as_bytes(four_bytes(rows[t] + column(chain, v)))))
        scales = load_f32x16(tile + _SCALES + _VECTOR * chain)
        for t in range(len(rows)):
            total = totals + _VECTOR * (CHAINS * t + chain)
            _add(total, sums[t], scales * load_f32(rows[t] + X32_SCALES + 8 * chain))
            if has_minimums:
                scaled_sum = splat_f32x16(load_f32(rows[t] + X32_SCALED_SUMS + 8 * chain))
                minimums = load_f32x16(tile + _MINIMUMS + _VECTOR * chain)
                store(total, fma(minimums, scaled_sum, load_f32x16(total)))


# --- kernels ---------------------------------------------------------------------------------------------------------


@njit(**INLINE)
def _addresses(table: int, at: int, like: Any) -> Any:
    for t in range(len(like)):
        like = tuple_setitem(like, t, load_i64(table + 8 * t) + at)
    return like


def make_unpack_256(record: str, panel: Panel, block_bytes: int, interleaved: bool, build: int) -> Any:
    vectors_per_scale, fields, panel_bytes = panel.vectors_per_scale, panel.fields, ROWS * block_bytes

    @cfunc(UNPACK, **KERNEL)
    def unpack_256(source: int, row_bytes: int, columns: int, index: int, tile: int) -> Any:
        keyed(build)
        open_block, offsets = part(record, "open_block"), part(record, "offsets")
        vector, scale = part(record, "vector"), part(record, "scale")
        opened = room(_OPENED_BYTES)
        if interleaved:
            source += index * panel_bytes
        else:
            packed = room(panel_bytes)
            pack_block(fields, source + index * block_bytes, row_bytes, packed)
            source = packed
        _unpack_256(open_block, offsets, vector, scale, vectors_per_scale, (source, opened, tile))
        return 0

    return unpack_256


def make_unpack_32(record: str, panel: Panel, block_bytes: int, interleaved: bool, build: int) -> Any:
    has_minimums, fields, panel_bytes = panel.has_minimums, panel.fields, ROWS * block_bytes

    @cfunc(UNPACK, **KERNEL)
    def unpack_32(source: int, row_bytes: int, columns: int, index: int, tile: int) -> Any:
        keyed(build)
        open_block, vector, dot = part(record, "open_block"), part(record, "vector"), part(record, "dot")
        blocks = columns // 32
        for chain in range(min(CHAINS, blocks - CHAINS * index)):
            if interleaved:  # the blocks of a chain lie together
                block = blocks // CHAINS * chain + min(chain, blocks % CHAINS) + index
                _unpack_32(open_block, vector, dot, has_minimums, source + block * panel_bytes, chain, tile)
            else:
                packed = room(panel_bytes)
                pack_block(fields, source + (CHAINS * index + chain) * block_bytes, row_bytes, packed)
                _unpack_32(open_block, vector, dot, has_minimums, packed, chain, tile)
        return 0

    return unpack_32


def make_apply_256(dot_name: str, vectors_per_scale: int, has_minimums: bool, build: int) -> Any:
    @cfunc(APPLY, **KERNEL)
    def apply_256(tile: int, activations: int, count: int, offset: int, totals: int, columns: int) -> Any:
        keyed(build)
        dot = part("experts:panels", dot_name)
        fours = count - 3 * (-count % 4)
        for t in range(0, fours, 4):
            rows = _addresses(activations + 8 * t, offset, repeat(0, 4))
            _apply_256(dot, vectors_per_scale, has_minimums, tile, rows, totals + _VECTOR * t)
        for t in range(fours, count, 3):
            rows = _addresses(activations + 8 * t, offset, repeat(0, 3))
            _apply_256(dot, vectors_per_scale, has_minimums, tile, rows, totals + _VECTOR * t)
        return 0

    return apply_256


def make_apply_32(dot_name: str, has_minimums: bool, build: int) -> Any:
    @cfunc(APPLY, **KERNEL)
    def apply_32(tile: int, activations: int, count: int, offset: int, totals: int, columns: int) -> Any:
        keyed(build)
        dot = part("experts:panels", dot_name)
        fours = count - 3 * (-count % 4)
        for t in range(0, fours, 4):
            rows = _addresses(activations + 8 * t, offset, repeat(0, 4))
            _apply_32(dot, has_minimums, tile, columns // 32, rows, totals + TOTAL_BYTES * t)
        for t in range(fours, count, 3):
            rows = _addresses(activations + 8 * t, offset, repeat(0, 3))
            _apply_32(dot, has_minimums, tile, columns // 32, rows, totals + TOTAL_BYTES * t)
        return 0

    return apply_32
