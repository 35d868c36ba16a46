"""Remembers which experts each token used when it was last seen: the same token tends to the same experts.

Shapes: L layers with experts, K experts per row, N tokens.
"""

import numpy as np


class TokenExperts:
    """A table of bounded size; where it is full, the token that was stored longest ago goes.

    Cost: `capacity` x L x K x 2 bytes.
    """

    def __init__(self, num_layers: int, num_used: int, capacity: int = 4096):
        self._ids_NLK = np.zeros((capacity, num_layers, num_used), np.int16)
        self._slots: dict[int, int] = {}  # in the order in which tokens were stored

    def __len__(self) -> int:
        return len(self._slots)

    def store(self, token_id: int, expert_ids_LK: np.ndarray) -> None:
        slot = self._slots.pop(token_id, None)
        if slot is None:
            full = len(self._slots) == len(self._ids_NLK)
            slot = self._slots.pop(next(iter(self._slots))) if full else len(self._slots)
        self._slots[token_id] = slot
        self._ids_NLK[slot] = expert_ids_LK

    def look_up(self, token_id: int) -> np.ndarray | None:
        """Experts int16 (L, K) of the token, or None if it was never seen or is forgotten."""
        slot = self._slots.get(token_id)
        return None if slot is None else self._ids_NLK[slot]
