"""Counts how many distinct experts the rows of a step touch: a loaded expert serves every row that chose it.

Shapes: T rows, K experts per row.
"""

from collections.abc import Sequence

import numpy as np


def distinct_experts(expert_ids_TK: np.ndarray) -> int:
    """Size of the union of the rows' experts in one layer: how many experts' bytes a step reads there."""
    return len(set(expert_ids_TK.ravel().tolist()))


def distinct_by_layer(expert_ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct experts and pairs of a row and an expert in each layer, float64 (L,), from ids (T, K) of each.

    Layers behind a cut have fewer rows.
    """
    distinct_L, uses_L = np.zeros(len(expert_ids)), np.zeros(len(expert_ids))
    start = 0
    while start < len(expert_ids):  # layers of equally many rows go together
        end = start + 1
        while end < len(expert_ids) and expert_ids[end].shape == expert_ids[start].shape:
            end += 1
        sorted_LX = np.sort(np.stack(expert_ids[start:end]).reshape(end - start, -1), axis=1)
        distinct_L[start:end] = 1 + (sorted_LX[:, 1:] != sorted_LX[:, :-1]).sum(axis=1)
        uses_L[start:end] = sorted_LX.shape[1]
        start = end
    return distinct_L, uses_L


class ReuseCounter:
    """Sums unions over the steps and layers of a run."""

    def __init__(self) -> None:
        self.steps = 0
        self._layers = 0
        self._distinct = 0
        self._uses = 0

    def observe(self, expert_ids: Sequence[np.ndarray]) -> None:
        """The experts (T, K) of each MoE layer in one step."""
        self.steps += 1
        self._layers += len(expert_ids)
        self._distinct += sum(distinct_experts(ids) for ids in expert_ids)
        self._uses += sum(ids.size for ids in expert_ids)

    @property
    def experts_per_step(self) -> float:
        """Distinct experts that a layer reads in a step, on average."""
        return self._distinct / self._layers if self._layers else 0.0

    @property
    def reuse(self) -> float:
        """Share of the rows' expert uses that found the expert loaded for another row of the same step."""
        return 1 - self._distinct / self._uses if self._uses else 0.0
