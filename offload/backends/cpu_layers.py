"""Decoder blocks on the CPU in two calls of compiled code each: attention up to the routing, and what follows it.

Between calls weights have pushed Python's own code and data out of the caches, where each line takes microseconds. So a
block's plan is made once for each number of rows and kept; a step only brings the rows and where they stand. Results
have the bits of `Layers`. Where no row is dropped between blocks, they all run in one call (`cpu_trunk.py`).

Shapes: T rows, D hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from experts.plans.kept import MOST_ROWS
from experts.plans.workspace import Workspace
from experts.threads.team import LOCK

from ..cuts import Cut, take_all
from ..transformer.backend import Array, Backend
from ..transformer.config import ModelConfig
from ..transformer.kv_cache import KvCache
from ..transformer.layers import AnyAttention, AnyCache, Layers
from ..transformer.rows import Rows, check_room
from ..transformer.weights import BlockWeights
from .block_phases import Kind
from .block_plan import BlockPlan
from .cpu import CpuBackend
from .kept import AnyPlan, KeptPlans, furthest_planned


@dataclass(frozen=True)
class CpuLayers(Layers):
    workspace: Workspace = field(default_factory=Workspace)
    plans: dict[Any, BlockPlan] = field(default_factory=dict)
    whole: KeptPlans = field(default_factory=KeptPlans)  # of all blocks, and of what is around them
    checked: list[Any] = field(default_factory=lambda: [None, None])  # a cache, and the last rows that lay within it

    def block(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows, cut: Cut = take_all
    ) -> tuple[Array, Array | None]:
        plan = self._plan(weights, cache, layer, rows)
        plan.memory.x_TD[:] = x_TD
        self.attend(plan, rows)
        return self._fed(plan, cache, layer, rows, cut)

    def write_keys_values(self, weights: AnyAttention, normed_TD: Array, cache: Any, layer: int, rows: Rows) -> None:
        plan = self._plan(weights, cache, layer, rows, norms=False, reads=False)
        plan.memory.normed_TD[:] = normed_TD
        self.attend(plan, rows)

    def finish_block(
        self,
        weights: BlockWeights,
        x_TD: Array,
        normed_TD: Array,
        cache: AnyCache,
        layer: int,
        rows: Rows,
        cut: Cut = take_all,
    ) -> tuple[Array, Array | None]:
        plan = self._plan(weights, cache, layer, rows, norms=False, writes=False)
        plan.memory.x_TD[:], plan.memory.normed_TD[:] = x_TD, normed_TD
        self.attend(plan, rows)
        return self._fed(plan, cache, layer, rows, cut)

    def attend(self, plan: BlockPlan, rows: Rows) -> None:
        """The first half of a block, for rows that the plan has."""
        plan.memory.place(rows)
        with LOCK:
            plan.attend.run()

    def feed(self, plan: BlockPlan) -> np.ndarray:
        """The second half: the residual stream behind the block."""
        assert plan.feed is not None
        with LOCK:
            plan.feed.run()
        return plan.memory.x_TD.copy()

    def _fed(self, plan: BlockPlan, cache: AnyCache, layer: int, rows: Rows, cut: Cut) -> tuple[Array, Array | None]:
        """The second half of the rows that go on, and their experts."""
        if not plan.has_experts:
            return self.feed(plan), None
        kept = cut(plan.phases.expert_ids_TK.copy())
        if kept is not None:
            left = rows.take(kept)
            fewer = self._plan(plan.phases.weights, cache, layer, left)
            fewer.take(plan, kept)
            plan = fewer
        return self.feed(plan), plan.phases.expert_ids_TK.copy()

    def plan_of_rows(self, make: Callable[..., AnyPlan], weights: Any, cache: AnyCache, rows: Rows) -> AnyPlan:
        """A kept plan that brings so many rows through more than one block, reaching as far as they look.

        Args:
            make: takes these layers, the weights, the cache, and how many rows reach how far.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        self._check(cache, rows)
        kind = Kind(len(rows), furthest_planned(int(rows.positions.max()), cache.num_positions))
        return self.whole.get((make, id(weights), id(cache), kind), partial(make, self, weights, cache, kind))

    def _plan(
        self, weights: BlockWeights | AnyAttention, cache: Any, layer: int, rows: Rows, **parts: bool
    ) -> BlockPlan:
        """A plan for so many rows, of all parts of the block that `parts` does not leave out.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        self._check(cache, rows)
        cached, keeps = cache.layers[layer], len(rows) <= MOST_ROWS
        kind = Kind(len(rows), (cache.num_positions if keeps else int(rows.positions.max()) + 1) - 1, **parts)
        key = id(weights), id(cached), kind
        plan = self.plans.get(key)
        while plan is None or plan.stale:
            plan = BlockPlan(self, weights, cached, kind, self.workspace)
            if keeps:
                self.plans[key] = plan
        return plan

    def _check(self, cache: Any, rows: Rows) -> None:
        """
        Raises:
            ContextFull: a position lies outside the cache.
        """
        assert isinstance(cache, KvCache)
        if not all(map(is_, self.checked, (cache, rows))):
            check_room(rows, cache.num_positions)
            cache.layers[0].check_places(rows.slots, rows.positions, len(rows))
            self.checked[:] = cache, rows


def layers_on(backend: Backend, config: ModelConfig, rope_table: Array) -> Layers:
    """The blocks of a model as this device runs them best."""
    whole = isinstance(backend, CpuBackend) and config.latent is None
    return (CpuLayers if whole else Layers)(config, backend, rope_table)
