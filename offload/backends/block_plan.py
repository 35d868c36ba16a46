"""What a decoder block does with a number of rows on the CPU, written down once as two plans of compiled work.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size, K experts per row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experts import ExpertLayer
from experts.attention import KeysValues
from experts.attention.read import add_attention
from experts.attention.write import write_step
from experts.matrix import address_of
from experts.norms import norm_step
from experts.plan import Place, Plan, Step, padded_bytes
from experts.rope import rope_step
from experts.router import route_step
from experts.stages import Choices, dense_ffn, linear_jobs, mixture
from experts.tasks import total_task
from experts.threads import Job, num_threads
from experts.workspace import Workspace

from ..cuts import taken
from ..transformer.config import SOFTMAX, ModelConfig
from ..transformer.layers import AnyAttention
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, MoeWeights


@dataclass(frozen=True)
class Kind:
    """What is done with how many rows."""

    num_rows: int
    norms: bool = True  # before attention; else `normed_TD` is given, too
    writes: bool = True  # keys and values are computed and stored
    reads: bool = True  # all the rest is done


class BlockPlan:
    """Two jobs over arrays that stay where they are.

    `attend` takes `x_TD`, `slots_T` and `positions_T` to `attended_TD`, the residual stream behind attention, to its
    norm, and to the experts chosen; `feed` takes these to `out_TD`.

    Args:
        weights: those of attention are enough where nothing is read.
        cached: keys and values of this layer.
        furthest: no position is beyond it.
        workspace: its memory may be used by others between steps, but not between the two jobs.
    """

    def __init__(
        self,
        config: ModelConfig,
        rope_table: np.ndarray,
        weights: BlockWeights | AnyAttention,
        cached: KeysValues,
        furthest: int,
        kind: Kind,
        workspace: Workspace,
    ) -> None:
        self.weights, self._cached = weights, cached  # they live as long as their addresses are here
        assert furthest < len(rope_table), "there are angles for every position of the cache"
        self._config, self._rope_table, self._furthest = config, rope_table, furthest
        self._rows, self._workspace = kind.num_rows, workspace
        self.x_TD, self._x = self._floats("x")
        self.attended_TD, self._attended = self._floats("attended")
        self.normed_TD, self._normed = self._floats("normed")
        _, self._projected = self._floats("projected")
        self.out_TD, self._out = self._floats("out")
        T, K = kind.num_rows, config.routing.num_used
        self.slots_T = workspace.array("slots", (T,), np.int64)
        self.positions_T = workspace.array("positions", (T,), np.int64)
        self.expert_ids_TK = workspace.array("expert ids", (T, K), np.int32)
        self.expert_weights_TK = workspace.array("expert weights", (T, K), np.float32)
        self._chosen = Choices(T, K, address_of(self.expert_ids_TK), address_of(self.expert_weights_TK))

        self._plans = [Plan(workspace, keep=True)]
        self._attend(self._plans[0], weights.attention if isinstance(weights, BlockWeights) else weights, cached, kind)
        if kind.reads:
            assert isinstance(weights, BlockWeights)
            self._before_ffn(self._plans[0], weights.ffn_norm, weights.ffn)
            self._plans.append(Plan(workspace, keep=True))
            self._feed(self._plans[1], weights.ffn)
        self.attend, *feed = (Job(plan.phases, plan.work_bytes) for plan in self._plans)
        self.feed = feed[0] if feed else None
        self._made_for = workspace.growths, num_threads()

    @property
    def stale(self) -> bool:
        """Whether its scratch memory has moved, or the number of threads is another."""
        return self._made_for != (self._workspace.growths, num_threads())

    @property
    def has_experts(self) -> bool:
        return isinstance(self.weights, BlockWeights) and isinstance(self.weights.ffn, MoeWeights)

    def take(self, other: "BlockPlan", kept: list[slice]) -> None:
        """Goes on with these rows of another plan, which has attended."""
        for name in ("attended_TD", "normed_TD", "expert_ids_TK", "expert_weights_TK"):
            getattr(self, name)[:] = taken(getattr(other, name), kept)

    def _attend(self, plan: Plan, weights: AnyAttention, cached: KeysValues, kind: Kind) -> None:
        """Keys and values to the cache, and from there what the rows read, projected."""
        assert isinstance(weights, AttentionWeights)
        config, T = self._config, self._rows
        C, eps = config.head_size, config.norm_eps
        products = [(weights.q, weights.q_bias, "q")] if kind.reads else []
        if kind.writes:
            products += [(weights.k, weights.k_bias, "k"), (weights.v, weights.v_bias, "v")]
        ws, biases, names = zip(*products, strict=True)
        places = {name: plan.floats(name, T, w.rows) for w, _, name in products}
        norm = [norm_step(plan, self._x, weights.norm, eps, self._normed)] if kind.norms else []
        plan.each_row(T, 0, *norm, *plan.encodings(self._normed, T, ws, "normed"))
        plan.products(*linear_jobs(plan, "normed", T, ws, [places[name] for name in names], biases))

        steps, positions = [], address_of(self.positions_T)
        for w, _, name in products:
            if name != "v":
                head_norm = weights.q_norm if name == "q" else weights.k_norm
                heads = places[name][0]
                steps.append(rope_step(plan, heads, w.rows // C, positions, self._rope_table, head_norm, C, eps))
        slots = address_of(self.slots_T)
        if kind.writes:
            steps.append(write_step(plan, places["k"][0], places["v"][0], cached, slots, positions))
        plan.each_row(T, 0, *steps)
        if not kind.reads:
            return

        H, read = weights.q.rows // C, plan.floats("read", T, weights.q.rows)
        add_attention(plan, places["q"][0], H, cached, (slots, positions), T, self._furthest, read[0])
        plan.each_row(T, 0, *plan.encodings(read, T, (weights.output,), "read"))
        plan.products(*linear_jobs(plan, "read", T, (weights.output,), [self._projected], [None]))

    def _before_ffn(self, plan: Plan, norm_D: np.ndarray, ffn: FfnWeights | MoeWeights) -> None:
        """The residual stream, its norm, and where there are experts the choice of them."""
        routing, T = self._config.routing, self._rows
        total = self._total(plan, self._x, [self._projected], self._attended)
        norm = norm_step(plan, self._attended, norm_D, self._config.norm_eps, self._normed)
        if isinstance(ffn, FfnWeights):
            plan.each_row(T, 0, total, norm)
            return
        plan.each_row(T, 0, total, norm, *plan.encodings(self._normed, T, (ffn.router,), "normed"))
        logits = plan.floats("logits", T, ffn.router.rows)
        plan.products(*linear_jobs(plan, "normed", T, (ffn.router,), [logits], [None]))
        kind = routing.normalizes, routing.scale, routing.gating == SOFTMAX
        groups = routing.num_groups, routing.num_used_groups
        plan.each_row(T, 0, route_step(plan, logits, ffn.router_bias, self._chosen, *kind, groups))

    def _feed(self, plan: Plan, ffn: FfnWeights | MoeWeights) -> None:
        """The experts and the network that all rows go through, phase by phase beside each other."""
        T, D = self._rows, self._config.hidden_size
        dense = ffn.shared if isinstance(ffn, MoeWeights) else ffn
        routed = ffn.experts if isinstance(ffn, MoeWeights) else None
        assert routed is None or isinstance(routed, ExpertLayer), "the CPU's experts are in main memory"
        ws = [*((routed.gate, routed.up) if routed else ()), *((dense.gate, dense.up) if dense else ())]
        plan.each_row(T, 0, *plan.encodings(self._normed, T, ws, "normed"))
        parts, ffns = [], []
        if routed is not None:
            mixed = mixture(plan, routed, self._chosen, "normed", T)
            ffns.append(mixed.ffn)
        if dense is not None:
            parts.append(plan.floats("dense", T, D))
            ffns.append(dense_ffn(plan, "dense", T, (dense.gate, dense.up, dense.down), parts[0], "normed"))
        plan.products(*(job for one in ffns for job in one.widening()))
        for one in ffns:
            one.between()
        plan.products(*(one.narrowing() for one in ffns))
        if routed is not None:
            parts.insert(0, plan.floats("mixed", T, D))
            mixed.sums(parts[0])
        plan.each_row(T, 0, self._total(plan, self._attended, parts, self._out))

    def _total(self, plan: Plan, a: Place, others: Sequence[Place], out: Place) -> Step:
        """out = a + b, or a + (b + c)."""
        b, c = (*others, (0, 0))[:2]
        return plan.step(total_task(), *a, *b, *c, *out, self._config.hidden_size)

    def _floats(self, name: str) -> tuple[np.ndarray, Place]:
        """An array (T, D) of the workspace, and its place."""
        T, D = self._rows, self._config.hidden_size
        padded = self._workspace.array(name, (T, padded_bytes(D) // 4), np.float32)
        return padded[:, :D], (address_of(padded), padded.strides[0])
