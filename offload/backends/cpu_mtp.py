"""The MTP block on the CPU: few pairs take one call of compiled code to be filled, and another to be finished.

Results have the bits of `MtpBlock`.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from experts.checks import check_ids
from experts.plans.kept import MOST_ROWS

from ..transformer.backend import Cache, LatentCache
from ..transformer.layers import Layers
from ..transformer.mtp import MtpBlock
from ..transformer.rows import Rows
from ..transformer.weights import MtpWeights
from .cpu_layers import CpuLayers
from .mtp_plan import FillPlan, FinishPlan

Half = TypeVar("Half", FillPlan, FinishPlan)


@dataclass(frozen=True)
class CpuMtpBlock(MtpBlock):
    def fill(self, pairs: Rows, hidden_TD: np.ndarray) -> np.ndarray:
        if not 0 < len(pairs) <= MOST_ROWS:
            return super().fill(pairs, hidden_TD)  # type: ignore[no-any-return]
        check_ids("token ids", pairs.token_ids, np.int64, self.weights.embedding.rows)
        return self._plan(FillPlan, pairs).run(pairs, hidden_TD)

    def finish(self, pairs: Rows, u_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not 0 < len(pairs) <= MOST_ROWS:
            return super().finish(pairs, u_TD)
        return self._plan(FinishPlan, pairs).run(pairs, u_TD)

    def _plan(self, half: type[Half], pairs: Rows) -> Half:
        assert isinstance(self.layers, CpuLayers)
        return self.layers.plan_of_rows(half, self.weights, self.cache, pairs)


def mtp_on(layers: Layers, weights: MtpWeights, cache: Cache | LatentCache) -> MtpBlock:
    """The MTP block of a model as these layers run it best."""
    return (CpuMtpBlock if isinstance(layers, CpuLayers) else MtpBlock)(layers, weights, cache)
