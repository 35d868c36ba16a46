"""What plans that bring rows through more than one block have in common."""

from typing import Any

from experts.plans.kept import Kept
from experts.plans.plan import Plan

from ..transformer.kv_cache import KvCache
from .block_phases import Kind, RowMemory
from .cpu_layers import CpuLayers


class RowsPlan(Kept):
    """A plan over a `RowMemory`, and what its addresses lead to."""

    def __init__(self, layers: CpuLayers, weights: Any, cache: KvCache, kind: Kind) -> None:
        super().__init__(layers.workspace)
        self._weights, self._cache = weights, cache  # they live as long as their addresses are here
        self._plan = Plan(layers.workspace, keep=True)
        self._memory = RowMemory(layers.workspace, kind.num_rows, layers.config.hidden_size)
