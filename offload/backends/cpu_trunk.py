"""The trunk on the CPU: few rows, none of which is dropped on the way, take one call of compiled code.

Results have the bits of `Trunk`.

Shapes: T rows, D hidden, V vocabulary.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from experts.checks import check_ids
from experts.plans.kept import MOST_ROWS

from ..cuts import Cut, take_all
from ..transformer.backend import Cache, LatentCache
from ..transformer.layers import Layers
from ..transformer.trunk import Trunk, Verified
from ..transformer.weights import ModelWeights
from .cpu_layers import CpuLayers
from .linear_plan import LinearPlan
from .trunk_plan import TrunkPlan


@dataclass(frozen=True)
class CpuTrunk(Trunk):
    def run(
        self, placed: Any, cut: Cut = take_all, taps: Many[int] = (), wanted: list[slice] | None = None
    ) -> Verified:
        if cut is not take_all or taps or wanted is not None or not 0 < len(placed) <= MOST_ROWS:
            return super().run(placed, cut, taps, wanted)
        check_ids("token ids", placed.token_ids, np.int64, self.weights.embedding.rows)
        plan = self._layers.plan_of_rows(TrunkPlan, self.weights, self.cache, placed)
        hidden_TD, expert_ids = plan.run(placed)
        return Verified(hidden_TD, expert_ids, [placed] * len(self.weights.blocks), {})

    def scores(self, hidden_TD: np.ndarray) -> np.ndarray:
        head, T = self.weights.head, len(hidden_TD)
        if not 0 < T <= MOST_ROWS:
            return super().scores(hidden_TD)  # type: ignore[no-any-return]
        layers = self._layers
        make = partial(LinearPlan, head, T, layers.workspace)
        return layers.whole.get((LinearPlan, id(head), T), make).run(hidden_TD)

    @property
    def _layers(self) -> CpuLayers:
        assert isinstance(self.layers, CpuLayers)
        return self.layers


def trunk_on(layers: Layers, weights: ModelWeights, cache: Cache | LatentCache) -> Trunk:
    """The trunk of a model as these layers run it best."""
    return (CpuTrunk if isinstance(layers, CpuLayers) else Trunk)(layers, weights, cache)
