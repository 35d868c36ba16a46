"""The two halves of the MTP block for a number of pairs on the CPU, a job each.

Shapes: T pairs, D hidden, V vocabulary, K experts per pair.
"""

import numpy as np

from experts.matrix import address_of
from experts.plans.plan import float_rows
from experts.plans.stages import linear_jobs, look_up_step
from experts.rowwise.norms import norm_step
from experts.threads.team import LOCK

from ..transformer.kv_cache import KvCache
from ..transformer.rows import Rows
from ..transformer.weights import MtpWeights
from .block_phases import BlockPhases, Kind
from .cpu_layers import CpuLayers
from .kept import job_of
from .rows_plan import RowsPlan


class FillPlan(RowsPlan):
    """Stores keys and values."""

    def __init__(self, layers: CpuLayers, weights: MtpWeights, cache: KvCache, kind: Kind) -> None:
        super().__init__(layers, weights, cache, kind)
        plan, memory = self._plan, self._memory
        T, D, eps = kind.num_rows, layers.config.hidden_size, layers.config.norm_eps
        self._token_ids_T = layers.workspace.array("token ids", (T,), np.int64)
        self._hidden_TD, hidden = float_rows(layers.workspace, "hidden", T, D)
        embedded, (left, row_bytes) = plan.floats("embedded", T, D), plan.floats("joined", T, 2 * D)
        plan.each_row(
            T, 0,
            look_up_step(plan, weights.embedding, address_of(self._token_ids_T), embedded),
            norm_step(plan, embedded, weights.embedding_norm, eps, (left, row_bytes)),
            norm_step(plan, hidden, weights.hidden_norm, eps, (left + 4 * D, row_bytes)),
            *plan.encodings((left, row_bytes), T, (weights.projection,), "joined"),
        )  # fmt: skip
        plan.products(*linear_jobs(plan, "joined", T, (weights.projection,), [memory.x], [None]))
        BlockPhases(layers, weights.block, cache.layers[0], kind._replace(reads=False), memory).attend(plan)
        self._job = job_of(plan)

    def run(self, pairs: Rows, hidden_TD: np.ndarray) -> np.ndarray:
        """The residual stream (T, D) that the other half goes on from."""
        with LOCK:
            self._memory.place(pairs)
            self._token_ids_T[:], self._hidden_TD[:] = pairs.token_ids, hidden_TD
            self._job.run()
            return self._memory.x_TD.copy()


class FinishPlan(RowsPlan):
    """All the rest, up to the logits."""

    def __init__(self, layers: CpuLayers, weights: MtpWeights, cache: KvCache, kind: Kind) -> None:
        super().__init__(layers, weights, cache, kind)
        plan, memory, T = self._plan, self._memory, kind.num_rows
        self._block = BlockPhases(layers, weights.block, cache.layers[0], kind._replace(writes=False), memory)
        self._block.attend(plan)
        self._block.feed(plan)
        norm = norm_step(plan, memory.x, weights.head_norm, layers.config.norm_eps, memory.normed)
        plan.each_row(T, 0, norm, *plan.encodings(memory.normed, T, (weights.head,), "normed"))
        self._logits_TV, logits = float_rows(layers.workspace, "products", T, weights.head.rows)
        plan.products(*linear_jobs(plan, "normed", T, (weights.head,), [logits], [None]))
        self._job = job_of(plan)

    def run(self, pairs: Rows, u_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The normed state (T, D), the draft logits (T, V), and the experts int32 (T, K)."""
        with LOCK:
            self._memory.place(pairs)
            self._memory.x_TD[:] = u_TD
            self._job.run()
            return self._memory.normed_TD.copy(), self._logits_TV.copy(), self._block.expert_ids_TK.copy()
