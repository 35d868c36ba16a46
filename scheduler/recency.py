"""When a sequence last used each expert: tells how many experts of a row the rows just before it had loaded.

Plain decoding shows this as well as drafting does: rows that were computed one after the other say what they would
have shared in one step.

Shapes: L layers with experts, E experts, K experts per row, M rows before.
"""

import numpy as np

NEVER = -(1 << 30)


class ExpertRecency:
    """The last position at which each expert was used, in each layer."""

    def __init__(self, num_layers: int, num_experts: int):
        self._last_LE = np.full((num_layers, num_experts), NEVER, np.int64)
        self._layers_L1 = np.arange(num_layers)[:, None]

    def copy(self) -> "ExpertRecency":
        other = ExpertRecency.__new__(ExpertRecency)
        other._last_LE, other._layers_L1 = self._last_LE.copy(), self._layers_L1
        return other

    def gaps(self, expert_ids_LK: np.ndarray, position: int) -> np.ndarray:
        """Rows back to the last use of each expert (L, K): 1 means the row just before `position`."""
        gaps_LK: np.ndarray = position - self._last_LE[self._layers_L1, expert_ids_LK]
        return gaps_LK

    def use(self, expert_ids_LK: np.ndarray, position: int) -> None:
        """The row at `position` used these experts."""
        self._last_LE[self._layers_L1, expert_ids_LK] = position

    def new_shares(self, expert_ids_LK: np.ndarray, position: int, most: int) -> np.ndarray:
        """Share of each layer's experts that none of the m rows before had used, m = 1..most: float64 (L, most)."""
        gaps_LK = self.gaps(expert_ids_LK, position)
        shares_LM: np.ndarray = (gaps_LK[:, :, None] > np.arange(1, most + 1)).mean(axis=1)
        return shares_LM
