"""The trunk for a number of rows on the CPU as one job, from token ids to the state behind the output norm.

Shapes: T rows, D hidden, K experts per row.
"""

import numpy as np

from experts.matrix import address_of
from experts.plans.stages import look_up_step
from experts.rowwise.norms import norm_step
from experts.threads.team import LOCK

from ..transformer.kv_cache import KvCache
from ..transformer.rows import Rows
from ..transformer.weights import ModelWeights
from .block_phases import BlockPhases, Kind
from .cpu_layers import CpuLayers
from .kept import job_of
from .rows_plan import RowsPlan


class TrunkPlan(RowsPlan):
    """All blocks one after the other, for rows that all go through them."""

    def __init__(self, layers: CpuLayers, weights: ModelWeights, cache: KvCache, kind: Kind) -> None:
        super().__init__(layers, weights, cache, kind)
        plan, memory, T = self._plan, self._memory, kind.num_rows
        self._token_ids_T = layers.workspace.array("token ids", (T,), np.int64)
        plan.each_row(T, 0, look_up_step(plan, weights.embedding, address_of(self._token_ids_T), memory.x))
        self._blocks = [
            BlockPhases(layers, block, cached, kind, memory)
            for block, cached in zip(weights.blocks, cache.layers, strict=True)
        ]
        for block in self._blocks:
            block.attend(plan)
            block.feed(plan)
        plan.each_row(T, 0, norm_step(plan, memory.x, weights.output_norm, layers.config.norm_eps, memory.normed))
        self._job = job_of(plan)

    def run(self, rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
        """The state behind the output norm (T, D), and the experts of each layer that has some, int32 (T, K)."""
        with LOCK:
            self._memory.place(rows)
            self._token_ids_T[:] = rows.token_ids
            self._job.run()
            return self._memory.normed_TD.copy(), [b.expert_ids_TK.copy() for b in self._blocks if b.has_experts]
