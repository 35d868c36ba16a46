"""GLM's router: sigmoid scores, experts chosen with a correction bias, weighted without it.

Shapes: T rows, E experts, K experts per row.
Source: DeepSeek-V3 (arXiv:2412.19437, section 2.1.2), which GLM-4.5 follows.
"""

import numba
import numpy as np


def route(
    logits_TE: np.ndarray, bias_E: np.ndarray, num_used: int, normalize: bool, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses experts: topk(sigmoid(logits) + bias), weighted by sigmoid(logits).

    Args:
        logits_TE: float32 (T, E).
        bias_E: float32 (E,), added for the choice only.
        num_used: K.
        normalize: divide a row's weights by their sum.
        scale: factor on all weights.

    Returns:
        int32 (T, K) expert ids, best first (a tie goes to the lower id), and float32 (T, K) weights.
    """
    T, E = logits_TE.shape
    if bias_E.shape != (E,) or not 1 <= num_used <= E:
        raise ValueError(f"route needs a bias of {E} and 1..{E} experts used, got {bias_E.shape} and {num_used}")
    expert_ids_TK = np.empty((T, num_used), np.int32)
    weights_TK = np.empty((T, num_used), np.float32)
    _route(logits_TE, bias_E, normalize, np.float32(scale), expert_ids_TK, weights_TK)
    return expert_ids_TK, weights_TK


@numba.njit(cache=True)
def _route(logits, bias, normalize, scale, expert_ids, weights):  # type: ignore[no-untyped-def]
    T, E = logits.shape
    K = expert_ids.shape[1]
    score = np.empty(E, np.float32)
    choice = np.empty(E, np.float32)
    for t in range(T):
        for e in range(E):
            score[e] = np.float32(1) / (np.float32(1) + np.exp(-logits[t, e]))
            choice[e] = score[e] + bias[e]
        total = np.float32(0)
        for k in range(K):
            best = 0
            for e in range(1, E):
                # a NaN never compares greater, so ids stay legal whatever comes in
                if choice[e] > choice[best]:
                    best = e
            expert_ids[t, k] = best
            weights[t, k] = score[best]
            total += score[best]
            choice[best] = -np.inf
        factor = scale / total if normalize else scale
        for k in range(K):
            weights[t, k] *= factor
