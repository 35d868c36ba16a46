"""RMSNorm over rows.

Shapes: T rows, D features.
"""

import numba
import numpy as np

# Lets LLVM sum in several lanes. The order depends on the row's length alone, so a row's result never depends on its
# neighbours.
REASSOCIATE = {"reassoc", "contract"}


def rms_norm(x_TD: np.ndarray, weight_D: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, float32 (T, D).

    Raises:
        ValueError: x is not C-contiguous float32 (T, D), or weight not (D,).
    """
    if x_TD.dtype != np.float32 or x_TD.ndim != 2 or weight_D.shape != x_TD.shape[1:]:
        raise ValueError(f"rms_norm needs float32 (T, D) and (D,), got {x_TD.dtype} {x_TD.shape} and {weight_D.shape}")
    out_TD = np.empty_like(x_TD)
    _rms_norm(np.ascontiguousarray(x_TD), weight_D, np.float32(eps), out_TD)
    return out_TD


@numba.njit(cache=True, fastmath=REASSOCIATE)
def _rms_norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    D = x.shape[1]
    for t in range(x.shape[0]):
        total = np.float32(0)
        for d in range(D):
            total += x[t, d] * x[t, d]
        scale = np.float32(1) / np.sqrt(total / np.float32(D) + eps)
        for d in range(D):
            out[t, d] = x[t, d] * scale * weight[d]
