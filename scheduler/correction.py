"""Corrects predicted seconds by measured ones: a factor for each part of a step, learned online.

What is known beforehand: all factors share one unknown speed, and each differs from the others by some share. So the
first measured steps set the speed, and the factors move apart only as far as steps of different make-up say so. A
Kalman filter over the factors, with outliers clipped: a step that another process held up must not count.

Shapes: P parts of a step.

Source: recursive least squares with a prior (Simon 2006, "Optimal state estimation", section 3.3); clipping after
Huber 1964.
"""

import math
from collections.abc import Sequence

import numpy as np

from .cost import PARTS

SPEED_SPREAD = 1.0  # how far the common speed may be off at first, as a share
PART_SPREAD = (0.15, 0.6, 0.15, 0.6, 0.2, 0.5, 1.0)  # how far each part may be off from the common speed
SPEED_DRIFT = 0.03  # of the common speed from step to step: clocks, other processes
PART_DRIFT = 0.002
NOISE = 0.08  # of a measurement
CLIP = 3.0  # standard deviations of an innovation
LEAST = 0.02  # a factor stays above this share of the common speed


class Correction:
    """Factors on predicted parts, and how sure they are."""

    def __init__(self) -> None:
        self.factors = [1.0] * len(PARTS)
        self._spread_PP = np.full((len(PARTS), len(PARTS)), SPEED_SPREAD**2) + np.diag(np.square(PART_SPREAD))
        self.num_observed = 0

    def seconds(self, parts: Sequence[float]) -> float:
        return sum(f * x for f, x in zip(self.factors, parts, strict=True))

    def observe(self, parts: Sequence[float], measured_s: float) -> None:
        """A measurement of what was predicted as `parts`, which are not all 0."""
        factors_P, parts_P, spread_PP = np.array(self.factors), np.array(parts), self._spread_PP
        spread_PP += SPEED_DRIFT**2 * np.outer(factors_P, factors_P)  # they move together more than apart
        spread_PP.ravel()[:: len(PARTS) + 1] += (PART_DRIFT * factors_P) ** 2
        gains_P = spread_PP @ parts_P
        predicted_s = float(factors_P @ parts_P)
        variance = float(gains_P @ parts_P) + (NOISE * predicted_s) ** 2
        limit = CLIP * math.sqrt(variance)
        innovation = max(-limit, min(limit, measured_s - predicted_s))
        factors_P += gains_P * (innovation / variance)
        spread_PP -= np.outer(gains_P, gains_P / variance)
        self.factors = np.maximum(factors_P, LEAST * factors_P.max()).tolist()
        self.num_observed += 1
