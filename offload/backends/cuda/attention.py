"""Attention over an encoded cache, split into ranges of positions that are fixed, and added up in their order.

A program takes one row, one key-value head with its query heads, and one range: so a row's bits depend on its query
and on what it sees alone, and a single row over a long context keeps the whole device busy. Keys and values are decoded
in registers by the decoders of the weights.

Shapes: T rows, H query heads, G key-value heads, R = H / G heads that share one, C head size, S positions of the
cache, B bytes of an encoded head, J positions of a chunk.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eager.attention import DeviceCache, DeviceLatentCache
from ..eager.rows import DeviceRows
from ..handoff import MOST_REPLAYED
from .blocks import decode
from .launch import Kernel, ceil_div, power_of_two

SPLIT, CHUNK = 256, 32  # positions of a range, and of the chunks it is read in: part of every result's bits
WIDTH = tl.constexpr(32)  # dimensions that are decoded at a time: a group of every cache type
SCRATCH = 1 << 24  # floats that the ranges' results may take: 64 MiB


@triton.jit
def ranges_kernel(
    q, keys, values, slots, positions, part, part_max, part_sum, H, C, S, row_bytes, scale,
    FORMAT: tl.constexpr, GROUPS: tl.constexpr, R: tl.constexpr, HEADS: tl.constexpr,
    SPLIT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One row, head and range: the sum of its values, weighted by exp(score - highest), and the sum of weights.

    Grid: rows, key-value heads, ranges. GROUPS is C in groups of WIDTH; HEADS is R or the next power of two.
    """
    row, head, num_ranges = tl.program_id(0), tl.program_id(1), tl.num_programs(2)
    position = tl.load(positions + row)
    start = tl.program_id(2) * SPLIT
    if start <= position:
        r, lane, j = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :], tl.arange(0, CHUNK)
        query = q + (row * H + head * R + tl.minimum(r, R - 1)) * C
        first = (tl.load(slots + row) * (H // R) + head) * S
        highest = tl.full([HEADS], float("-inf"), tl.float32)
        total = tl.zeros([HEADS], tl.float32)
        sums = ()
        for _ in tl.static_range(GROUPS):
            sums = sums + (tl.zeros([HEADS, WIDTH], tl.float32),)
        for chunk in range(start, tl.minimum(start + SPLIT, position + 1), CHUNK):
            seen = chunk + j <= position
            encoded = ((first + tl.minimum(chunk + j, position)) * row_bytes)[:, None]
            scores = tl.zeros([HEADS, CHUNK], tl.float32)
            for group in tl.static_range(GROUPS):
                column = group * WIDTH + lane
                k = decode(FORMAT, keys + encoded, group, lane, C)
                scores = tl.dot(tl.load(query + column, column < C, 0.0), tl.trans(k), scores, input_precision="ieee")
            scores = tl.where(seen[None, :], scores * scale, float("-inf"))
            now = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp(scores - now[:, None])
            shrink = tl.exp(highest - now)
            total = total * shrink + tl.sum(weights, 1)
            added = ()
            for group in tl.static_range(GROUPS):
                v = decode(FORMAT, values + encoded, group, lane, C)
                added = added + (tl.dot(weights, v, sums[group] * shrink[:, None], input_precision="ieee"),)
            sums, highest = added, now
        i = ((row * tl.num_programs(1) + head) * num_ranges + tl.program_id(2)) * R + tl.arange(0, HEADS)
        tl.store(part_max + i, highest, tl.arange(0, HEADS) < R)
        tl.store(part_sum + i, total, tl.arange(0, HEADS) < R)
        for group in tl.static_range(GROUPS):
            column = group * WIDTH + lane
            tl.store(part + i.to(tl.int64)[:, None] * C + column, sums[group], (r < R) & (column < C))


@triton.jit
def join_kernel(
    part, part_max, part_sum, positions, out, H, C, num_ranges,
    R: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row and head: its ranges up to the row's position, one after the other."""
    row, head = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BLOCK)
    highest, total, sums = float("-inf"), 0.0, tl.zeros([BLOCK], tl.float32)
    first = (row * (H // R) + head // R) * num_ranges * R + head % R
    for i in range(tl.load(positions + row) // SPLIT + 1):
        at = first + i * R
        high = tl.load(part_max + at)
        now = tl.maximum(highest, high)
        shrink, grow = tl.exp(highest - now), tl.exp(high - now)
        total = total * shrink + tl.load(part_sum + at) * grow
        sums = sums * shrink + tl.load(part + at.to(tl.int64) * C + c, c < C, 0.0) * grow
        highest = now
    tl.store(out + (row * H + head) * C + c, tl.div_rn(sums, tl.zeros_like(sums) + total), c < C)


_ranges, _join = Kernel(ranges_kernel), Kernel(join_kernel)


def num_ranges(rows: DeviceRows) -> int:
    """That are looked at; of few rows a power of two, so that recorded work serves for a while as the text grows.

    It is no part of any result's bits: ranges behind a row are skipped.
    """
    ranges = ceil_div(rows.extent, SPLIT)
    return power_of_two(ranges) if len(rows) <= MOST_REPLAYED else ranges


def attention(q_THC: Tensor, cache: DeviceCache | DeviceLatentCache, layer: int, rows: DeviceRows) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over each row's slot, up to its own position: float32 (T, H, C)."""
    T, H, C = q_THC.shape
    ranges = num_ranges(rows)
    step = max(1, SCRATCH // (H * C * ranges))
    out, q_THC = torch.empty_like(q_THC), q_THC.contiguous()
    if isinstance(cache, DeviceLatentCache):  # one array is keys and values of all heads
        keys = values = cache.x_LNSB[layer][:, None]
    else:
        keys, values = cache.k_LNGSB[layer], cache.v_LNGSB[layer]
    for first in range(0, T, step):
        part = slice(first, first + step)
        _attend(q_THC[part], keys, values, cache.format.name, rows[part], ranges, out[part])
    return out


def _attend(
    q_THC: Tensor, keys_NGSB: Tensor, values_NGSB: Tensor, format_name: str, rows: DeviceRows, num_ranges: int,
    out_THC: Tensor,
) -> None:  # fmt: skip
    T, H, C = q_THC.shape
    _, G, S, B = keys_NGSB.shape
    R = H // G
    part = q_THC.new_empty((T, H, num_ranges, C))
    part_max, part_sum = q_THC.new_empty((2, T, H, num_ranges)).unbind(0)
    _ranges(
        (T, G, num_ranges),
        q_THC, keys_NGSB, values_NGSB, rows.slots, rows.positions, part, part_max, part_sum, H, C, S, B, C**-0.5,
        constants=(format_name, ceil_div(C, WIDTH.value), R, power_of_two(R), SPLIT, CHUNK),
    )  # fmt: skip
    _join(
        (T, H), part, part_max, part_sum, rows.positions, out_THC, H, C, num_ranges,
        constants=(R, SPLIT, power_of_two(C)),
    )  # fmt: skip
