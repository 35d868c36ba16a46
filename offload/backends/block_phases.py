"""What a decoder block does with a number of rows on the CPU, written down as phases of plans.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size, K experts per row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experts import ExpertLayer
from experts.attention import KeysValues
from experts.attention.read import add_attention
from experts.attention.write import write_step
from experts.matrix import address_of
from experts.plans.plan import Place, Plan, Step, float_rows
from experts.plans.stages import Choices, dense_ffn, linear_jobs, mixture
from experts.plans.tasks import total_task
from experts.plans.workspace import Workspace
from experts.rowwise.norms import norm_step
from experts.rowwise.rope import rope_step
from experts.rowwise.router import route_step

from ..transformer.config import SOFTMAX
from ..transformer.layers import AnyAttention, Layers
from ..transformer.rows import Rows
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, MoeWeights


class RowMemory:
    """Arrays of T rows that every block works on, with their places; a workspace has one for each number of rows.

    Attributes:
        x_TD: the residual stream before and behind a block.
        attended_TD: the same behind its attention.
        normed_TD: what attention or the network behind it reads.
    """

    def __init__(self, workspace: Workspace, num_rows: int, hidden_size: int) -> None:
        shape = num_rows, hidden_size
        self.x_TD, self.x = float_rows(workspace, "x", *shape)
        self.attended_TD, self.attended = float_rows(workspace, "attended", *shape)
        self.normed_TD, self.normed = float_rows(workspace, "normed", *shape)
        self.slots_T = workspace.array("slots", (num_rows,), np.int64)
        self.positions_T = workspace.array("positions of rows", (num_rows,), np.int64)

    def place(self, rows: Rows) -> None:
        """Says where the rows stand."""
        self.slots_T[:], self.positions_T[:] = rows.slots, rows.positions


class Kind(NamedTuple):
    """What is done with how many rows."""

    num_rows: int
    furthest: int  # none stands behind this position
    norms: bool = True  # before attention; else `normed_TD` is given, too
    writes: bool = True  # keys and values are computed and stored
    reads: bool = True  # all the rest is done


class BlockPhases:
    """The two halves of a block: attention up to the experts chosen, and what follows.

    Args:
        weights: those of attention are enough where nothing is read.
        cached: keys and values of this layer.
    """

    def __init__(
        self,
        layers: Layers,
        weights: BlockWeights | AnyAttention,
        cached: KeysValues,
        kind: Kind,
        memory: RowMemory,
    ) -> None:
        assert kind.furthest < len(layers.rope_table), "there are angles for every position of the cache"
        self.weights, self.memory = weights, memory
        self._cached, self._rope_table = cached, layers.rope_table  # they live as long as their addresses are here
        self._config, self._kind = layers.config, kind
        T, K = kind.num_rows, layers.config.routing.num_used
        self.expert_ids_TK, self.expert_weights_TK = np.empty((T, K), np.int32), np.empty((T, K), np.float32)
        self._chosen = Choices(T, K, address_of(self.expert_ids_TK), address_of(self.expert_weights_TK))

    @property
    def has_experts(self) -> bool:
        return isinstance(self.weights, BlockWeights) and isinstance(self.weights.ffn, MoeWeights)

    def attend(self, plan: Plan) -> None:
        """Keys and values to the cache; where rows read from there, all up to the experts chosen."""
        weights = self.weights.attention if isinstance(self.weights, BlockWeights) else self.weights
        assert isinstance(weights, AttentionWeights)
        kind, memory, config, T = self._kind, self.memory, self._config, self._kind.num_rows
        C, eps = config.head_size, config.norm_eps
        products = [(weights.q, weights.q_bias, "q")] if kind.reads else []
        if kind.writes:
            products += [(weights.k, weights.k_bias, "k"), (weights.v, weights.v_bias, "v")]
        ws, biases, names = zip(*products, strict=True)
        places = {name: plan.floats(name, T, w.rows) for w, _, name in products}
        norm = [norm_step(plan, memory.x, weights.norm, eps, memory.normed)] if kind.norms else []
        plan.each_row(T, 0, *norm, *plan.encodings(memory.normed, T, ws, "normed"))
        plan.products(*linear_jobs(plan, "normed", T, ws, [places[name] for name in names], biases))

        steps, slots, positions = [], address_of(memory.slots_T), address_of(memory.positions_T)
        for w, _, name in products:
            if name != "v":
                head_norm = weights.q_norm if name == "q" else weights.k_norm
                heads = places[name][0]
                steps.append(rope_step(plan, heads, w.rows // C, positions, self._rope_table, head_norm, C, eps))
        if kind.writes:
            steps.append(write_step(plan, places["k"][0], places["v"][0], self._cached, slots, positions))
        plan.each_row(T, 0, *steps)
        if not kind.reads:
            return

        H, read = weights.q.rows // C, plan.floats("read", T, weights.q.rows)
        add_attention(plan, places["q"][0], H, self._cached, (slots, positions), T, kind.furthest, read[0])
        plan.each_row(T, 0, *plan.encodings(read, T, (weights.output,), "read"))
        projected = plan.floats("projected", T, config.hidden_size)
        plan.products(*linear_jobs(plan, "read", T, (weights.output,), [projected], [None]))
        assert isinstance(self.weights, BlockWeights)
        self._before_ffn(plan, projected, self.weights.ffn_norm, self.weights.ffn)

    def _before_ffn(self, plan: Plan, projected: Place, norm_D: np.ndarray, ffn: FfnWeights | MoeWeights) -> None:
        """The residual stream, its norm, and where there are experts the choice of them."""
        memory, routing, T = self.memory, self._config.routing, self._kind.num_rows
        total = self._total(plan, memory.x, [projected], memory.attended)
        norm = norm_step(plan, memory.attended, norm_D, self._config.norm_eps, memory.normed)
        if isinstance(ffn, FfnWeights):
            plan.each_row(T, 0, total, norm)
            return
        plan.each_row(T, 0, total, norm, *plan.encodings(memory.normed, T, (ffn.router,), "normed"))
        logits = plan.floats("logits", T, ffn.router.rows)
        plan.products(*linear_jobs(plan, "normed", T, (ffn.router,), [logits], [None]))
        kind = routing.normalizes, routing.scale, routing.gating == SOFTMAX
        groups = routing.num_groups, routing.num_used_groups
        plan.each_row(T, 0, route_step(plan, logits, ffn.router_bias, self._chosen, *kind, groups))

    def feed(self, plan: Plan) -> None:
        """The experts and the network that all rows go through, phase by phase beside each other."""
        assert isinstance(self.weights, BlockWeights)
        ffn, T, D = self.weights.ffn, self._kind.num_rows, self._config.hidden_size
        dense = ffn.shared if isinstance(ffn, MoeWeights) else ffn
        routed = ffn.experts if isinstance(ffn, MoeWeights) else None
        assert routed is None or isinstance(routed, ExpertLayer), "the CPU's experts are in main memory"
        ws = [*((routed.gate, routed.up) if routed else ()), *((dense.gate, dense.up) if dense else ())]
        plan.each_row(T, 0, *plan.encodings(self.memory.normed, T, ws, "normed"))
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
        plan.each_row(T, 0, self._total(plan, self.memory.attended, parts, self.memory.x))

    def _total(self, plan: Plan, a: Place, others: Sequence[Place], out: Place) -> Step:
        """out = a + b, or a + (b + c)."""
        b, c = (*others, (0, 0))[:2]
        return plan.step(total_task(), *a, *b, *c, *out, self._config.hidden_size)
