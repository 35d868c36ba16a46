"""The MTP block on the CPU: few pairs take one call of compiled code to be filled, and another to be finished.

Results have the bits of `MtpBlock`.
"""

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from experts.checks import check_ids
from experts.plans.kept import MOST_ROWS

from ..transformer.backend import Cache, LatentCache
from ..transformer.kv_cache import KvCache
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
        """The plan of this half for so many pairs.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        layers, cache, T = self.layers, self.cache, len(pairs)
        assert isinstance(layers, CpuLayers)
        assert isinstance(cache, KvCache)
        furthest = layers.furthest(cache, pairs)
        common = layers.config, layers.rope_table, self.weights, cache
        key = half, id(self.weights), id(cache), T, furthest
        return layers.whole.get(key, partial(half, *common, furthest, T, layers.workspace))


def mtp_on(layers: Layers, weights: MtpWeights, cache: Cache | LatentCache) -> MtpBlock:
    """The MTP block of a model as these layers run it best."""
    return (CpuMtpBlock if isinstance(layers, CpuLayers) else MtpBlock)(layers, weights, cache)
