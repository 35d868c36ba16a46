"""Decoder blocks on the CPU in two calls of compiled code each: attention up to the routing, and what follows it.

Between calls weights have pushed Python's own code and data out of the caches, where each line takes microseconds. So a
block's plan is made once for each number of rows and kept; a step only brings the rows and where they stand. Results
have the bits of `Layers`.

Shapes: T rows, D hidden.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experts.threads import LOCK
from experts.workspace import Workspace

from ..cuts import Cut, take_all
from ..transformer.config import ModelConfig
from ..transformer.kv_cache import KvCache, check_room
from ..transformer.layers import AnyCache, Layers
from ..transformer.rows import Rows
from ..transformer.weights import BlockWeights
from .block_plan import BlockPlan, Kind
from .cpu import CpuBackend
from .protocol import Array, Backend

KEPT_ROWS = 8  # plans for more rows are made each time: they have much to do


@dataclass(frozen=True)
class CpuLayers(Layers):
    workspace: Workspace = field(default_factory=Workspace)
    plans: dict[Any, BlockPlan] = field(default_factory=dict)

    def block(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows, cut: Cut = take_all
    ) -> tuple[Array, Array | None]:
        return self._through(weights, x_TD, cache, layer, rows, Kind(len(rows)), cut)

    def fill(self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows) -> None:
        self.attend(self._plan(weights, cache, layer, rows, Kind(len(rows), reads=False)), x_TD, rows)

    def finish(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows
    ) -> tuple[Array, Array | None]:
        return self._through(weights, x_TD, cache, layer, rows, Kind(len(rows), writes=False), take_all)

    def attend(self, plan: BlockPlan, x_TD: np.ndarray, rows: Rows) -> None:
        """The first half."""
        plan.x_TD[:] = x_TD
        plan.slots_T[:] = rows.slots
        plan.positions_T[:] = rows.positions
        with LOCK:
            plan.attend.run()

    def feed(self, plan: BlockPlan) -> np.ndarray:
        """The second half."""
        assert plan.feed is not None
        with LOCK:
            plan.feed.run()
        return plan.out_TD.copy()

    def _through(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows, kind: Kind, cut: Cut
    ) -> tuple[Array, Array | None]:
        plan = self._plan(weights, cache, layer, rows, kind)
        self.attend(plan, x_TD, rows)
        if not plan.has_experts:
            return self.feed(plan), None
        kept = cut(plan.expert_ids_TK.copy())
        if kept is not None:
            left = rows.take(kept)
            fewer = self._plan(weights, cache, layer, left, Kind(len(left), kind.writes))
            fewer.take(plan, kept)
            plan = fewer
        return self.feed(plan), plan.expert_ids_TK.copy()

    def _plan(self, weights: BlockWeights, cache: Any, layer: int, rows: Rows, kind: Kind) -> BlockPlan:
        """
        Raises:
            ContextFull: a position lies outside the cache.
        """
        assert isinstance(cache, KvCache)
        check_room(rows, cache.num_positions)
        cached, keeps = cache.layers[layer], kind.num_rows <= KEPT_ROWS
        key = id(weights), id(cached), kind
        plan = self.plans.get(key)
        if plan is None or plan.stale:
            furthest = cache.num_positions - 1 if keeps else rows.furthest
            plan = BlockPlan(self.config, self.rope_table, weights, cached, furthest, kind, self.workspace)
            if keeps:
                self.plans[key] = plan
        return plan


def layers_on(backend: Backend, config: ModelConfig, rope_table: Array) -> Layers:
    """The blocks of a model as this device runs them best."""
    whole = isinstance(backend, CpuBackend) and config.latent is None
    return (CpuLayers if whole else Layers)(config, backend, rope_table)
