"""GLM's router: sigmoid scores, experts chosen with a correction bias, weighted without it.

Shapes: T rows, E experts, K experts per row.
Source: DeepSeek-V3 (arXiv:2412.19437, section 2.1.2), which GLM-4.5 follows.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit
from numpy.typing import NDArray

from experts.blocks.floats import load_some_f32x16
from experts.build import INLINE, KERNEL, build_key, keyed
from experts.checks import check_rows, check_vector
from experts.kernels import keep
from experts.lifetime import keep_alive
from experts.memory import load_f32
from experts.rowwise import float_field, little, run_items, run_on_threads
from experts.silu import sigmoid
from experts.tasks import TASK, field
from experts.vec import first_lanes, greatest_f32, load_f32x16, maximum, splat_f32x16, store

Floats = NDArray[np.float32]

# item = row
ROUTE_LOGITS, ROUTE_ROW_BYTES, ROUTE_BIAS, ROUTE_IDS, ROUTE_WEIGHTS = range(5)
ROUTE_EXPERTS, ROUTE_USED, ROUTE_NORMALIZE, ROUTE_SCALE = range(5, 9)
ROUTE_FIELDS = 9

_NEVER = np.float32(-np.inf)


def route(
    logits_TE: Floats, bias_E: Floats, num_used: int, normalize: bool, scale: float
) -> tuple[NDArray[np.int32], Floats]:
    """Chooses experts: topk(sigmoid(logits) + bias), weighted by sigmoid(logits).

    Args:
        logits_TE: float32 (T, E), contiguous rows.
        bias_E: float32 (E,), added for the choice only.
        num_used: K.
        normalize: divide a row's weights by their sum.
        scale: factor on all weights.

    Returns:
        int32 (T, K) expert ids, best first (a tie goes to the lower id), and float32 (T, K) weights.

    Raises:
        ValueError: A shape, type or layout is wrong, or K is not in 1..E.
    """
    check_vector("bias", bias_E, bias_E.size)
    E = bias_E.size
    check_rows("logits", logits_TE, E)
    if not 1 <= num_used <= E:
        raise ValueError(f"experts used must be in 1..{E}, not {num_used}")
    T = len(logits_TE)
    expert_ids_TK = np.empty((T, num_used), np.int32)
    weights_TK = np.empty((T, num_used), np.float32)
    context = np.empty(ROUTE_FIELDS, np.int64)
    work_bytes = logits_TE.nbytes * num_used
    here = little(work_bytes)
    _enter()(logits_TE, bias_E, normalize, scale, expert_ids_TK, weights_TK, context, _task() if here else 0)
    if not here:
        run_on_threads(_task(), context, T, work_bytes)
    return expert_ids_TK, weights_TK


@njit(**INLINE)
def _best(choices: int, E: int) -> int:
    """The first of the largest; NaN is never chosen, and ids stay legal where all are."""
    best = splat_f32x16(_NEVER)
    for e in range(0, 4 * E, 64):
        best = maximum(load_f32x16(choices + e), best)
    top = greatest_f32(best)
    for e in range(E):
        if load_f32(choices + 4 * e) == top:
            return e
    return 0


@cache
def _enter() -> Any:
    build = build_key()

    @njit(nogil=True, **KERNEL)
    def enter_route(
        logits: Any, bias: Any, normalize: bool, scale: float, ids: Any, weights: Any, context: Any, task: int
    ) -> None:
        keyed(build)
        context[ROUTE_LOGITS], context[ROUTE_ROW_BYTES] = logits.ctypes.data, logits.strides[0]
        context[ROUTE_BIAS], context[ROUTE_IDS] = bias.ctypes.data, ids.ctypes.data
        context[ROUTE_WEIGHTS], context[ROUTE_EXPERTS] = weights.ctypes.data, bias.size
        context[ROUTE_USED], context[ROUTE_NORMALIZE] = ids.shape[1], normalize
        store(context.ctypes.data + 8 * ROUTE_SCALE, np.float32(scale))
        run_items(task, context.ctypes.data, ids.shape[0])

    return enter_route


@cache
def _task() -> int:
    build = build_key()

    @cfunc(TASK, **KERNEL)
    def route_row(context: int, item: int) -> Any:
        keyed(build)
        E, K = field(context, ROUTE_EXPERTS), field(context, ROUTE_USED)
        logits = field(context, ROUTE_LOGITS) + item * field(context, ROUTE_ROW_BYTES)
        ids, weights = field(context, ROUTE_IDS) + 4 * item * K, field(context, ROUTE_WEIGHTS) + 4 * item * K
        buffer = np.empty((2, (E + 15) // 16 * 16), np.float32)  # whole vectors
        scores, choices = buffer[0].ctypes.data, buffer[1].ctypes.data
        for e in range(0, E, 16):
            score = sigmoid(load_some_f32x16(logits + 4 * e, E - e))
            store(scores + 4 * e, score)
            choice = score + load_some_f32x16(field(context, ROUTE_BIAS) + 4 * e, E - e)
            store(choices + 4 * e, first_lanes(E - e, choice, splat_f32x16(_NEVER)))
        total = np.float32(0.0)
        for k in range(K):
            expert = _best(choices, E)
            store(ids + 4 * k, np.int32(expert))
            store(weights + 4 * k, load_f32(scores + 4 * expert))
            total += load_f32(scores + 4 * expert)
            store(choices + 4 * expert, _NEVER)
        factor = float_field(context, ROUTE_SCALE)
        if field(context, ROUTE_NORMALIZE) != 0:
            factor = factor / total
        for k in range(K):
            store(weights + 4 * k, load_f32(weights + 4 * k) * factor)
        keep_alive(buffer)
        return 0

    return keep(route_row)
