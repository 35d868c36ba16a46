"""The fastest way through a trace for one who knows the future: what no policy can exceed.

Shapes: N tokens, M drafts.
"""

from collections.abc import Sequence

import numpy as np

from .cost import StepCost
from .reuse import distinct_by_layer
from .trace import Trace


def step_seconds(trace: Trace, cost: StepCost) -> np.ndarray:
    """Seconds (N, M + 1) of a step from each row with each number of drafts, passes included."""
    N, M = trace.draft_ids_NM.shape
    seconds = np.empty((N, M + 1))
    for n in range(N):
        rows_TLK = np.concatenate([trace.expert_ids_NLK[n : n + 1], trace.draft_expert_ids_NMLK[n]])
        for m in range(M + 1):
            distinct_L, uses_L = distinct_by_layer(list(rows_TLK[: m + 1].transpose(1, 0, 2)))
            verify_s = cost.verify_s(m + 1, distinct_L, uses_L, (n + 1) * (m + 1))
            seconds[n, m] = verify_s + sum(cost.draft_parts(m, m))
    return seconds


def oracle_seconds(trace: Trace, seconds: np.ndarray) -> float:
    """The least seconds to the trace's end: a shortest path over its rows."""
    right, last = trace.num_right(), trace.num_tokens - 1
    best = np.zeros(trace.num_tokens)
    for n in range(last - 1, -1, -1):
        most = min(trace.num_drafts, last - n - 1)
        best[n] = min(seconds[n, m] + best[n + 1 + min(m, right[n])] for m in range(most + 1))
    return float(best[0])


def fixed_seconds(trace: Trace, seconds: np.ndarray, lengths: Sequence[int]) -> list[float]:
    """Seconds to the trace's end with always the same number of drafts, for each of `lengths`."""
    right, last, out = trace.num_right(), trace.num_tokens - 1, []
    for length in lengths:
        n, total = 0, 0.0
        while n < last:
            m = min(length, trace.num_drafts, last - n - 1)
            total += seconds[n, m]
            n += 1 + min(m, int(right[n]))
        out.append(total)
    return out
