"""Which experts the last steps used, layer by layer."""

from collections import deque
from collections.abc import Sequence
from threading import Lock

import numpy as np

MOST_STEPS = 64
MOST_ROWS = 32  # of a step that are remembered: of a prompt's chunk the last ones


class ExpertHeat:
    """Remembers the last steps: 6 MB at most in GLM-4.7. Counting waits until somebody asks."""

    def __init__(self, num_experts: int):
        self.num_experts = num_experts
        self._steps: deque[list[np.ndarray]] = deque(maxlen=MOST_STEPS)
        self._lock = Lock()

    def observe(self, expert_ids: Sequence[np.ndarray]) -> None:
        """Takes a step's experts, int32 (T, K) of each layer that has some."""
        last = [ids_TK if len(ids_TK) <= MOST_ROWS else ids_TK[-MOST_ROWS:].copy() for ids_TK in expert_ids]
        with self._lock:
            self._steps.append(last)

    def steps_using(self) -> tuple[int, np.ndarray]:
        """How many steps are remembered, and in how many of them each expert was used: uint8 (layers, experts)."""
        with self._lock:
            steps = list(self._steps)
        uses_LE = np.zeros((len(steps[0]) if steps else 0, self.num_experts), np.uint8)
        for step in steps:
            for layer, ids_TK in enumerate(step):
                uses_LE[layer, np.unique(ids_TK)] += 1
        return len(steps), uses_LE
