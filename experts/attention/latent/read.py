"""Causal attention of rows over latent rows, which every head reads.

Legend: T rows, H query heads, C elements of a latent row.
"""

import numpy as np
from numpy.typing import NDArray

from experts.attention.latent.storage import LatentRows
from experts.attention.read import attention

_MOST_TOGETHER = 12  # heads that meet a piece as one row of the frame: those of a tile; others go to other threads


def latent_attention(
    q_THC: NDArray[np.float32], latent: LatentRows, slots_T: NDArray[np.int64], positions_T: NDArray[np.int64]
) -> NDArray[np.float32]:
    """softmax(q x^T / sqrt(C)) x over the latent rows x of each row's slot.

    Args:
        q_THC: float32, C-contiguous.
        latent: The rows' own are already in it.
        slots_T: int64 slot of each row.
        positions_T: int64 position of each row; it sees positions 0..positions_T[t].

    Returns:
        float32 (T, H, C).

    Raises:
        ValueError: A shape, type or layout is wrong, or a slot or position lies outside the cache.

    Cost: computes with whole rows, also where only a part of their elements is meant as value.

    Accuracy: as `attention`.
    """
    T, H, C = q_THC.shape
    together = max(m for m in range(1, _MOST_TOGETHER + 1) if H % m == 0)
    parts = H // together
    slots, positions = slots_T.repeat(parts), positions_T.repeat(parts)
    out = attention(q_THC.reshape(T * parts, together, C), latent.as_keys_values, slots, positions)
    return out.reshape(T, H, C)
