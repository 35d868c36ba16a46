"""The searches of ggml's K formats: scales, or scales and minimums, with the least weighted squared error.

Each tries a range of scales around the obvious one; for the codes that a trial gives, the best scale follows by least
squares. Trials are judged by the error that they leave.

Source: ggml, `make_qkx2_quants` and `make_qx_quants`, without an importance matrix.
"""

from typing import Any

import numpy as np
from numba import njit

from experts.build import KERNEL

from .halves import FAST

NOTHING = np.float32(1e-15)  # blocks whose largest weight is below this are zero


@njit(fastmath=FAST, nogil=True, **KERNEL)
def scale_and_minimum(x: Any, levels: int, first: float, trials: int, scratch: Any) -> Any:
    """x is about scale * code - minimum, codes 0 .. levels, minimum >= 0; large weights count more.

    Args:
        x: float32 (32,).
        first: the first trial divides the range into `levels + first` steps, each further one into 0.1 more. The range
            begins at the best minimum so far.
        trials: how many.
        scratch: float32 (2, 32).
    """
    weights, codes = scratch[0], scratch[1]
    size = len(x)
    sum_squares = np.float32(0)
    for i in range(size):
        sum_squares += x[i] * x[i]
    rms = np.sqrt(sum_squares / np.float32(size))
    low, high = np.float32(0), x[0]
    sum_w = sum_x = np.float32(0)
    for i in range(size):
        low, high = min(low, x[i]), max(high, x[i])
        weights[i] = rms + abs(x[i])
        sum_w += weights[i]
        sum_x += weights[i] * x[i]
    if high == low:
        return np.float32(0), -low
    top = np.float32(levels)
    inverse = top / (high - low)
    scale = np.float32(1) / inverse
    least = np.float32(0)
    for i in range(size):
        difference = scale * min(top, np.rint(inverse * (x[i] - low))) + low - x[i]
        least += weights[i] * difference * difference
    for step in range(trials):
        inverse = (np.float32(first) + np.float32(0.1) * np.float32(step) + top) / (high - low)
        sum_l = sum_ll = sum_lx = np.float32(0)
        for i in range(size):
            place = inverse * (x[i] - low)
            code = np.rint(min(top, place)) if place > 0 else np.float32(0)
            codes[i] = code
            sum_l += weights[i] * code
            sum_ll += weights[i] * code * code
            sum_lx += weights[i] * code * x[i]
        determinant = sum_w * sum_ll - sum_l * sum_l
        if determinant > 0:
            this_scale = (sum_w * sum_lx - sum_x * sum_l) / determinant
            this_minimum = (sum_ll * sum_x - sum_l * sum_lx) / determinant
            if this_minimum > 0:
                this_minimum, this_scale = np.float32(0), sum_lx / sum_ll
            error = np.float32(0)
            for i in range(size):
                difference = this_scale * codes[i] + this_minimum - x[i]
                error += weights[i] * difference * difference
            if error < least:
                least, scale, low = error, this_scale, this_minimum
    return scale, -low


@njit(fastmath=FAST, nogil=True, **KERNEL)
def signed_scale(x: Any, levels: int) -> Any:
    """x is about scale * code, codes -levels .. levels - 1; weights count by their squares."""
    extreme = np.float32(0)
    for i in range(len(x)):
        if abs(x[i]) > abs(extreme):
            extreme = x[i]
    if abs(extreme) < NOTHING:
        return np.float32(0)
    scale = best = np.float32(0)
    top = np.float32(levels)
    for step in range(19):
        # the obvious scale first, then 0.9 steps less to 0.9 steps more
        trial = 0 if step == 0 else (step - 10 if step < 10 else step - 9)
        inverse = -(top + np.float32(0.1) * np.float32(trial)) / extreme
        sum_lx = sum_ll = np.float32(0)
        for i in range(len(x)):
            code = max(-top, min(top - 1, np.rint(inverse * x[i])))
            weight = x[i] * x[i]
            sum_lx += weight * x[i] * code
            sum_ll += weight * code * code
        if sum_ll > 0 and (step == 0 or sum_lx * sum_lx > best * sum_ll):
            scale = sum_lx / sum_ll
            best = scale * sum_lx
    return scale
