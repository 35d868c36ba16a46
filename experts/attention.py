"""Causal attention of rows over a key-value cache, grouped heads, one query row at a time.

Legend: T rows, H query heads, G key-value heads, R = H / G heads that share one, C head size, N slots, S cached
positions.

A row sees positions 0..its own of its slot. Positions are taken in chunks of fixed size from 0 on with a running
softmax, so the result of a row depends on nothing but its query and what it sees: not on the other rows, and not on
the number of threads.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit
from numpy.typing import NDArray

from experts.blocks.floats import halves_to_f32
from experts.build import INLINE, KERNEL, build_key, keyed
from experts.kernels import keep
from experts.memory import load_f32, load_i64
from experts.plan import Plan
from experts.silu import exp
from experts.tasks import TASK, field
from experts.threads import LOCK
from experts.vec import fma, largest, load_f32x16, load_i16x16, splat_f32x16, store, total_f32, zeros_f32x16
from experts.workspace import Workspace

CHUNK = 128  # positions whose scores are held at a time
LANES = 16

# item = (row, key-value head)
ATT_Q, ATT_K, ATT_V, ATT_SLOTS, ATT_POSITIONS, ATT_OUT, ATT_GROUPS, ATT_SHARING, ATT_SIZE, ATT_LENGTH = range(10)

_workspace = Workspace()


def attention(
    q_THC: NDArray[np.float32],
    k_NGSC: NDArray[Any],
    v_NGSC: NDArray[Any],
    slots_T: NDArray[np.int64],
    positions_T: NDArray[np.int64],
) -> NDArray[np.float32]:
    """softmax(q k^T / sqrt(C)) v over each row's slot.

    Args:
        q_THC: float32, C-contiguous; C a multiple of 16.
        k_NGSC: keys, float32 or float16, C-contiguous; the rows' own keys are already in it.
        v_NGSC: values, as keys.
        slots_T: int64 slot of each row.
        positions_T: int64 position of each row; it sees positions 0..positions_T[t].

    Returns:
        float32 (T, H, C).

    Raises:
        ValueError: A shape, type or layout is wrong, or a slot or position lies outside the cache.

    Cost: reads (position + 1) * G * C * 2 elements a row.
    """
    T, H, C = q_THC.shape
    N, G, S, _ = k_NGSC.shape
    if k_NGSC.shape != (N, G, S, C) or v_NGSC.shape != k_NGSC.shape or H % G or C % LANES:
        raise ValueError(f"queries {q_THC.shape} do not fit keys {k_NGSC.shape} and values {v_NGSC.shape}")
    if k_NGSC.dtype not in (np.float16, np.float32) or v_NGSC.dtype != k_NGSC.dtype or q_THC.dtype != np.float32:
        raise ValueError(
            f"float32 queries and float16 or float32 caches, not {q_THC.dtype}, {k_NGSC.dtype}, {v_NGSC.dtype}"
        )
    if not (q_THC.flags.c_contiguous and k_NGSC.flags.c_contiguous and v_NGSC.flags.c_contiguous):
        raise ValueError("queries, keys and values must be C-contiguous")
    _check_within("slot", slots_T, T, N)
    _check_within("position", positions_T, T, S)
    out_THC = np.empty_like(q_THC)
    if T == 0:
        return out_THC
    with LOCK:
        plan = Plan(_workspace)
        addresses = [a.ctypes.data for a in (q_THC, k_NGSC, v_NGSC, slots_T, positions_T, out_THC)]
        context = plan.workspace.table((*addresses, G, H // G, C, S))
        work_bytes = int((positions_T + 1).sum()) * G * C * 2 * k_NGSC.itemsize
        plan.add(_attention_task(k_NGSC.dtype == np.float16), context, T * G, work_bytes)
        plan.run()
    return out_THC


def _check_within(what: str, values: NDArray[np.int64], count: int, limit: int) -> None:
    if values.dtype != np.int64 or values.shape != (count,) or not values.flags.c_contiguous:
        raise ValueError(f"{what}s must be contiguous int64 ({count},), not {values.dtype} {values.shape}")
    if count and not 0 <= values.min() <= values.max() < limit:
        raise ValueError(f"{what}s {values.min()}..{values.max()} lie outside 0..{limit - 1}")


@njit(**INLINE)
def _widened(source: int, elements: int, target: int) -> None:
    """float16 elements as float32."""
    for i in range(0, elements, LANES):
        store(target + 4 * i, halves_to_f32(load_i16x16(source + 2 * i)))


@njit(**INLINE)
def _score(q: int, keys: int, num: int, C: int, scores: int) -> Any:
    """Scores of one head with a chunk of keys; returns the largest."""
    scale = np.float32(1.0) / np.sqrt(np.float32(C))
    most = np.float32(-np.inf)
    for j in range(num):
        total = zeros_f32x16()
        for c in range(0, C, LANES):
            total = fma(load_f32x16(q + 4 * c), load_f32x16(keys + 4 * (j * C + c)), total)
        score = total_f32(total) * scale
        store(scores + 4 * j, score)
        most = max(most, score)
    return most


@njit(**INLINE)
def _weigh(scores: int, num: int, most: float) -> Any:
    """Turns scores into exp(score - most) and returns their sum; the rest of the chunk becomes 0."""
    lowest = splat_f32x16(np.float32(-87.0))  # where exp ends
    for j in range(0, num, LANES):
        store(scores + 4 * j, exp(largest(load_f32x16(scores + 4 * j) - splat_f32x16(most), lowest)))
    for j in range(num, CHUNK):
        store(scores + 4 * j, np.float32(0.0))
    total = zeros_f32x16()
    for j in range(0, num, LANES):
        total = total + load_f32x16(scores + 4 * j)
    return total_f32(total)


@njit(**INLINE)
def _add_values(scores: int, values: int, num: int, C: int, shrink: float, out: int) -> None:
    """out = out * shrink + sum over j of scores[j] * values[j]."""
    for c in range(0, C, LANES):
        total = load_f32x16(out + 4 * c) * shrink
        for j in range(num):
            total = fma(splat_f32x16(load_f32(scores + 4 * j)), load_f32x16(values + 4 * (j * C + c)), total)
        store(out + 4 * c, total)


@cache
def _attention_task(half: bool) -> int:
    """All query heads of a row that share one key-value head."""
    build = build_key()
    element_bytes = 2 if half else 4

    @cfunc(TASK, **KERNEL)
    def attend(context: int, item: int) -> int:
        keyed(build)
        G, R, C, S = (
            field(context, ATT_GROUPS),
            field(context, ATT_SHARING),
            field(context, ATT_SIZE),
            field(context, ATT_LENGTH),
        )
        t, g = item // G, item % G
        q = field(context, ATT_Q) + 4 * C * R * item
        out = field(context, ATT_OUT) + 4 * C * R * item
        cached = (load_i64(field(context, ATT_SLOTS) + 8 * t) * G + g) * S * C * element_bytes
        keys, values = field(context, ATT_K) + cached, field(context, ATT_V) + cached
        count = load_i64(field(context, ATT_POSITIONS) + 8 * t) + 1

        score_rows = np.empty((R, CHUNK), np.float32)
        wide_keys = np.empty(CHUNK * C if half else 1, np.float32)
        wide_values = np.empty(CHUNK * C if half else 1, np.float32)
        most, sums = np.full(R, -np.inf, np.float32), np.zeros(R, np.float32)
        for c in range(0, R * C, LANES):
            store(out + 4 * c, zeros_f32x16())
        for start in range(0, count, CHUNK):
            num = min(CHUNK, count - start)
            k, v = keys + start * C * element_bytes, values + start * C * element_bytes
            if half:
                _widened(k, num * C, wide_keys.ctypes.data)
                _widened(v, num * C, wide_values.ctypes.data)
                k, v = wide_keys.ctypes.data, wide_values.ctypes.data
            for r in range(R):
                scores = score_rows.ctypes.data + 4 * CHUNK * r
                highest = max(most[r], _score(q + 4 * C * r, k, num, C, scores))
                shrink = np.exp(most[r] - highest)
                most[r] = highest
                sums[r] = sums[r] * shrink + _weigh(scores, num, highest)
                _add_values(scores, v, num, C, shrink, out + 4 * C * r)
        for r in range(R):
            for c in range(4 * C * r, 4 * C * (r + 1), 4 * LANES):
                store(out + c, load_f32x16(out + c) / splat_f32x16(sums[r]))
        return 0

    return keep(attend)
