"""Linear regression on a stream: how far features explain what a running mean does not.

Slopes begin at 0 and drift slowly, so a feature that says nothing changes nothing. Features and targets are deviations
of shares (0 to 1) from their means, which sets the scale of the constants.

Source: recursive least squares as a Kalman filter over the slopes (Simon 2006, "Optimal state estimation", 3.3).
"""

from collections.abc import Sequence

SLOPE_SPREAD = 0.5
DRIFT = 0.003  # standard deviation of a slope's change from one observation to the next
NOISE = 0.1  # standard deviation of a target about its prediction
MEMORY = 256.0  # observations over which errors are averaged


class OnlineRegression:
    """target = sum of slope x feature."""

    def __init__(self, num_features: int):
        n = num_features
        self.slopes = [0.0] * n
        self._spread = [[SLOPE_SPREAD**2 if i == j else 0.0 for j in range(n)] for i in range(n)]
        self._num = self._residual = self._plain = 0.0

    def predict(self, features: Sequence[float]) -> float:
        return sum(slope * x for slope, x in zip(self.slopes, features, strict=True))

    def observe(self, features: Sequence[float], target: float) -> None:
        error = target - self.predict(features)
        self._num = min(self._num + 1, MEMORY)
        self._residual += (error**2 - self._residual) / self._num
        self._plain += (target**2 - self._plain) / self._num
        spread = self._spread
        for i, row in enumerate(spread):
            row[i] += DRIFT**2
        gains = [sum(a * b for a, b in zip(row, features, strict=True)) for row in spread]
        variance = NOISE**2 + sum(g * x for g, x in zip(gains, features, strict=True))
        for i, g in enumerate(gains):
            self.slopes[i] += g * error / variance
            for j, h in enumerate(gains):
                spread[i][j] -= g * h / variance

    @property
    def error(self) -> float:
        """Root mean square of what was predicted wrongly, each target predicted before it was seen."""
        return float(self._residual**0.5)

    @property
    def error_without(self) -> float:
        """The same had the prediction always been 0: the running mean alone."""
        return float(self._plain**0.5)
