"""Gumbel noise from a counter-based generator: a function of seed, position and token id, and of nothing else.

Because no state is advanced, the noise at a position is the same whether the token there is drafted, verified or
sampled plainly.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
"""

import numpy as np
from numba import njit

from experts.build import KERNEL

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)


def gumbel(seed: int, position: int, token_ids: np.ndarray) -> np.ndarray:
    """Standard Gumbel variates, float64, one for each token id (int64) at this position."""
    out = np.empty(len(token_ids), np.float64)
    _gumbel(np.uint64(seed), np.uint64(position), token_ids, out)
    return out


@njit(**KERNEL)
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds over a counter and a key of 32-bit words, each held in an uint64."""
    for _ in range(10):
        product_0, product_1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product_1 >> HALF_WORD) ^ c1 ^ k0,
            product_1 & LOW,
            (product_0 >> HALF_WORD) ^ c3 ^ k1,
            product_0 & LOW,
        )
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return c0, c1, c2, c3


@njit(**KERNEL)
def _gumbel(seed, position, token_ids, out):  # type: ignore[no-untyped-def]
    zero = np.uint64(0)
    for i in range(len(token_ids)):
        high, low, _, _ = philox(
            np.uint64(token_ids[i]), position & LOW, position >> HALF_WORD, zero, seed & LOW, seed >> HALF_WORD
        )
        # 53 random bits, moved off both ends of (0, 1)
        uniform = (
            np.float64(high >> np.uint64(5)) * 67108864.0 + np.float64(low >> np.uint64(6)) + 0.5
        ) / 9007199254740992.0
        out[i] = -np.log(-np.log(uniform))
