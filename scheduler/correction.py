"""Corrects predicted seconds by measured ones: a factor for each part of a step, learned online.

What is known beforehand: all factors share one unknown speed, and each differs from the others by some share. So the
first measured steps set the speed, and the factors move apart only as far as steps of different make-up say so. A
Kalman filter over the factors, with outliers clipped: a step that another process held up must not count.

Source: recursive least squares with a prior (Simon 2006, "Optimal state estimation", section 3.3); clipping after
Huber 1964.
"""

import math
from collections.abc import Sequence

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
        n = len(PARTS)
        self.factors = [1.0] * n
        self._spread = [
            [SPEED_SPREAD**2 + (PART_SPREAD[i] ** 2 if i == j else 0.0) for j in range(n)] for i in range(n)
        ]
        self.num_observed = 0

    def seconds(self, parts: Sequence[float]) -> float:
        return sum(f * x for f, x in zip(self.factors, parts, strict=True))

    def observe(self, parts: Sequence[float], measured_s: float) -> None:
        """A measurement of what was predicted as `parts`, which are not all 0."""
        spread, n = self._spread, len(parts)
        self._drift()
        gains = [sum(row[j] * parts[j] for j in range(n)) for row in spread]
        predicted_s = self.seconds(parts)
        noise = (NOISE * predicted_s) ** 2
        variance = sum(g * x for g, x in zip(gains, parts, strict=True)) + noise
        limit = CLIP * math.sqrt(variance)
        innovation = max(-limit, min(limit, measured_s - predicted_s))
        for i in range(n):
            self.factors[i] += gains[i] / variance * innovation
        for i in range(n):
            for j in range(n):
                spread[i][j] -= gains[i] * gains[j] / variance
        least = LEAST * max(self.factors)
        self.factors = [max(factor, least) for factor in self.factors]
        self.num_observed += 1

    def _drift(self) -> None:
        """Factors may have moved since the last measurement: all together more than one against the other."""
        f = self.factors
        for i, row in enumerate(self._spread):
            for j in range(len(f)):
                row[j] += SPEED_DRIFT**2 * f[i] * f[j]
            row[i] += (PART_DRIFT * f[i]) ** 2
