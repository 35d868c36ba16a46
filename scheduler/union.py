"""Running estimates, layer by layer, of how many new experts the next row of a step loads.

Shapes: L layers with experts, M rows before the row.
"""

import numpy as np

WINDOW_ROWS = 128  # how far back an estimate looks
PRIOR_ROWS = 4  # rows that the prior (random routing) counts for


class UnionEstimate:
    """new_LM[l, m - 1]: share of a row's experts in layer l that m rows before it in the step did not load."""

    def __init__(self, num_layers: int, num_experts: int, num_used: int, most: int):
        random_M = (1 - num_used / num_experts) ** np.arange(1, most + 1)
        self.new_LM = np.tile(random_M, (num_layers, 1))
        self._num_M = np.full(most, float(PRIOR_ROWS))

    def observe(self, new_LM: np.ndarray) -> None:
        """What a row truly found: shares (L, m) for 1..m rows before it."""
        m = new_LM.shape[1]
        self._num_M[:m] = np.minimum(self._num_M[:m] + 1, WINDOW_ROWS)
        self.new_LM[:, :m] += (new_LM - self.new_LM[:, :m]) / self._num_M[:m]
