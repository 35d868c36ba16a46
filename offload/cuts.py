"""Drops the tails of drafts on the way through the layers: carries the plan's decisions to where rows are computed."""

from collections.abc import Callable
from collections.abc import Sequence as Many

import numpy as np

from scheduler import StepPlan

# Sees the experts int32 (T, K) that a layer's rows chose; says which ranges of the rows go on, None for all of them.
Cut = Callable[[np.ndarray], list[slice] | None]


def take_all(expert_ids_TK: np.ndarray) -> None:
    """No row is dropped."""


def taken(x: np.ndarray, kept: Many[slice]) -> np.ndarray:
    """The rows that go on."""
    return np.concatenate([x[part] for part in kept])


class TailCut:
    """The cut of one step. Called with the experts of each layer as it routes; knows how much of each draft is left.

    Args:
        num_rows: rows of each sequence in the step, drafts not counted.
        lengths: draft rows of each.
        num_layers: leading layers with experts on the host; what later ones route, the plan could not place.
    """

    def __init__(self, plan: StepPlan, num_rows: Many[int], lengths: Many[int], num_layers: int):
        self.lengths = list(lengths)
        self._plan, self._num_rows, self._num_layers = plan, num_rows, num_layers
        self._routed: list[np.ndarray] = []

    def __call__(self, expert_ids_TK: np.ndarray) -> list[slice] | None:
        if len(self._routed) == self._num_layers:
            return None
        self._routed.append(expert_ids_TK)
        lengths = self._plan.cut(self._routed)
        if lengths is None:
            return None
        kept, start = [], 0
        for num, before, left in zip(self._num_rows, self.lengths, lengths, strict=True):
            assert 0 <= left <= before, "a cut only drops rows"
            kept.append(slice(start, start + num + left))
            start += num + before
        self.lengths = lengths
        self._routed = [taken(ids_TK, kept) for ids_TK in self._routed]
        return kept

    def expert_ids_LTK(self, expert_ids: Many[np.ndarray]) -> np.ndarray:
        """Experts of the rows that went through all layers, from what each layer computed (T, K)."""
        chosen = [*self._routed, *expert_ids[len(self._routed) :]]  # behind the last cut only kept rows are left
        return np.stack(chosen) if chosen else np.empty((0, 0, 0), np.int32)
