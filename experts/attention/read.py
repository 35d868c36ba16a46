"""Causal attention of rows over a key-value cache with grouped heads.

Legend: T rows, H query heads, G key-value heads, R = H / G heads that share one, C head size.

Positions are taken in pieces of fixed size, each piece's softmax for itself, and pieces are added in their order, so
the result of a row depends on nothing but its query and what it sees: not on the other rows, and not on the number of
threads.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit
from numpy.typing import NDArray

from experts import threads
from experts.attention import frame
from experts.attention.storage import KeysValues
from experts.attention.tile import register_rows
from experts.build import KERNEL, build_key, keyed
from experts.frame import repeat
from experts.kernels import keep
from experts.matrix import address_of
from experts.parts import part
from experts.rowwise import little, run_items, run_on_threads
from experts.tasks import TASK
from experts.vec import zeros_f32x16
from experts.workspace import Workspace

GROUP_ROWS = 8  # rows that meet a piece together
SPLIT_ROWS = 32  # up to so many rows, the pieces of a row are spread over threads
_ITEMS_PER_THREAD = 8

_workspace = Workspace()


def attention(
    q_THC: NDArray[np.float32], cached: KeysValues, slots_T: NDArray[np.int64], positions_T: NDArray[np.int64]
) -> NDArray[np.float32]:
    """softmax(q k^T / sqrt(C)) v over each row's slot.

    Args:
        q_THC: float32, C-contiguous.
        cached: Keys and values; the rows' own are already in it.
        slots_T: int64 slot of each row.
        positions_T: int64 position of each row; it sees positions 0..positions_T[t].

    Returns:
        float32 (T, H, C).

    Raises:
        ValueError: A shape, type or layout is wrong, or a slot or position lies outside the cache.

    Cost: reads what neighbouring rows of one slot see once for up to 8 rows.

    Accuracy: as float32 over the cached values; with q8_0 keys, queries are rounded to 16 bits a group of 32.
    """
    cached.check_heads("queries", q_THC)
    T, H, C = q_THC.shape
    G, row_bytes = cached.keys.shape[1], cached.values.shape[3]
    if H % G:
        raise ValueError(f"{H} query heads cannot share {G} key-value heads evenly")
    cached.check_places(slots_T, positions_T, T)
    out_THC = np.empty_like(q_THC)
    if T == 0:
        return out_THC
    groups, context = np.empty((T, 2), np.int64), np.zeros(frame.ATT_FIELDS, np.int64)
    num_groups, furthest = _describe()(
        q_THC, (cached.keys, cached.values), slots_T, positions_T, out_THC, groups, context
    )
    task, work_bytes = _task(cached.type.name, H // G, C), T * (furthest + 1) * G * 2 * row_bytes
    if little(work_bytes):
        _run_here()(task, context, num_groups * G)
    elif T > SPLIT_ROWS or furthest < frame.PIECE:
        run_on_threads(task, context, num_groups * G, work_bytes)
    else:
        _run_split(task, context, num_groups * G, T * G, work_bytes)
    return out_THC


def _run_split(task: int, context: NDArray[np.int64], whole_items: int, heads: int, work_bytes: int) -> None:
    """Pieces of one row on several threads, then their sums; how many pieces an item has changes nothing."""
    pieces = int(context[frame.ATT_PIECES])
    fair = -(-whole_items * pieces // (_ITEMS_PER_THREAD * threads.num_threads()))
    context[frame.ATT_SPAN_PIECES] = min(fair, pieces)
    context[frame.ATT_SPANS] = -(-pieces // context[frame.ATT_SPAN_PIECES])
    num_records = heads * int(context[frame.ATT_SHARING]) * pieces
    with threads.LOCK:
        context[frame.ATT_RECORDS] = _workspace.address("records", num_records * int(context[frame.ATT_RECORD_BYTES]))
        address = address_of(context)
        items = whole_items * int(context[frame.ATT_SPANS])
        threads.run([(task, address, items), (_combine_task(), address, heads)], work_bytes)


@cache
def _describe() -> Any:
    build = build_key()

    @njit(nogil=True, **KERNEL)
    def describe_attention(
        q: Any, cached: Any, slots: Any, positions: Any, out: Any, groups: Any, context: Any
    ) -> tuple[int, int]:
        """Fills the context for whole rows and the (first, last) of runs of rows of one slot.

        Returns:
            The number of groups and the furthest position.
        """
        keyed(build)
        keys, values = cached
        context[frame.ATT_Q], context[frame.ATT_OUT] = q.ctypes.data, out.ctypes.data
        context[frame.ATT_KEYS], context[frame.ATT_VALUES] = keys.ctypes.data, values.ctypes.data
        context[frame.ATT_SLOTS], context[frame.ATT_POSITIONS] = slots.ctypes.data, positions.ctypes.data
        context[frame.ATT_GROUPS], context[frame.ATT_KV_HEADS] = groups.ctypes.data, keys.shape[1]
        context[frame.ATT_SHARING], context[frame.ATT_SIZE] = q.shape[1] // keys.shape[1], q.shape[2]
        context[frame.ATT_LENGTH], context[frame.ATT_ROW_BYTES] = values.shape[2], values.shape[3]
        furthest = num_groups = first = 0
        for t in range(slots.size):
            furthest = max(furthest, positions[t])
            if t + 1 == slots.size or slots[t + 1] != slots[t] or t + 1 - first == GROUP_ROWS:
                groups[num_groups, 0], groups[num_groups, 1] = first, t + 1
                num_groups += 1
                first = t + 1
        pieces = furthest // frame.PIECE + 1
        context[frame.ATT_SPANS], context[frame.ATT_SPAN_PIECES], context[frame.ATT_PIECES] = 1, pieces, pieces
        context[frame.ATT_RECORD_BYTES] = 4 * q.shape[2] + frame.RECORD_TAIL_BYTES
        return num_groups, furthest

    return describe_attention


@cache
def _run_here() -> Any:
    build = build_key()

    @njit(nogil=True, **KERNEL)
    def run_attention(task: int, context: Any, items: int) -> None:
        keyed(build)
        run_items(task, context.ctypes.data, items)

    return run_attention


@cache
def _task(kind: str, sharing: int, head_size: int) -> int:
    """For tiles that hold all, or an equal part, of the heads that share keys."""
    _combine_task()  # built now, so that no long context waits for it later
    most, width = register_rows()
    m = max(m for m in range(1, most + 1) if sharing % m == 0)
    return _tile_task(kind, m, width if head_size % 32 == 0 else 1)


@cache
def _tile_task(kind: str, m: int, width: int) -> int:
    """Tiles of m queries and `width` vectors."""
    build, record = build_key(), f"experts.attention.{kind}:KERNELS"

    @cfunc(TASK, **KERNEL)
    def attend(context: int, item: int) -> Any:
        keyed(build)
        prepare, scores, weighted = part(record, "prepare"), part(record, "scores"), part(record, "weighted")
        zeros = repeat(repeat(zeros_f32x16(), width), m)
        return frame.attend(prepare, scores, weighted, zeros, context, item)

    return keep(attend)


@cache
def _combine_task() -> int:
    build = build_key()

    @cfunc(TASK, **KERNEL)
    def combine(context: int, item: int) -> Any:
        keyed(build)
        return frame.combine_pieces(context, item)

    return keep(combine)
