"""Rotary position embedding of heads in NEOX style (half-split pairs), after an optional head norm.

Shapes: T rows, H heads, C head size, R rotated dimensions, S positions.
"""

import numba
import numpy as np

from .norms import REASSOCIATE


def rope_table(num_positions: int, rotated: int, base: float) -> np.ndarray:
    """cos and sin of every angle: float32 (S, 2, R / 2), computed in float64."""
    frequency = base ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    angle = np.arange(num_positions, dtype=np.float64)[:, None] * frequency
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def head_norm_rope(
    x_THC: np.ndarray, positions_T: np.ndarray, table: np.ndarray, norm_C: np.ndarray | None, eps: float
) -> None:
    """Norms each head by `norm_C` (where given) and rotates it, in place.

    Args:
        x_THC: float32, C-contiguous; changed in place.
        positions_T: int64, each below the table's length.
        table: from `rope_table`.
    """
    if x_THC.dtype != np.float32 or x_THC.ndim != 3 or not x_THC.flags.c_contiguous:
        raise ValueError(f"head_norm_rope needs C-contiguous float32 (T, H, C), got {x_THC.dtype} {x_THC.shape}")
    if len(positions_T) and not 0 <= positions_T.min() <= positions_T.max() < len(table):
        raise ValueError(f"positions {positions_T.min()}..{positions_T.max()} outside 0..{len(table) - 1}")
    norm = np.empty(0, np.float32) if norm_C is None else norm_C
    _head_norm_rope(x_THC, positions_T, table, norm, np.float32(eps))


@numba.njit(cache=True, fastmath=REASSOCIATE)
def _head_norm_rope(x, positions, table, norm, eps):  # type: ignore[no-untyped-def]
    T, H, C = x.shape
    half = table.shape[2]
    for t in range(T):
        cos, sin = table[positions[t], 0], table[positions[t], 1]
        for h in range(H):
            head = x[t, h]
            if norm.shape[0] > 0:
                total = np.float32(0)
                for c in range(C):
                    total += head[c] * head[c]
                scale = np.float32(1) / np.sqrt(total / np.float32(C) + eps)
                for c in range(C):
                    head[c] = head[c] * scale * norm[c]
            for i in range(half):
                first, second = head[i], head[i + half]
                head[i] = first * cos[i] - second * sin[i]
                head[i + half] = second * cos[i] + first * sin[i]
