"""The two halves of a decoder block: attention and feed-forward, on rows.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size.
"""

from dataclasses import dataclass

from .backend import Array, Backend, Cache
from .config import ModelConfig
from .rows import Rows
from .weights import AttentionWeights, BlockWeights, FfnWeights, MoeWeights


@dataclass(frozen=True)
class Layers:
    """What every block needs besides its weights."""

    config: ModelConfig
    backend: Backend
    rope_table: Array  # (S, 2, R / 2)

    def block(
        self, weights: BlockWeights, x_TD: Array, cache: Cache, layer: int, rows: Rows
    ) -> tuple[Array, Array | None]:
        """One decoder block: the residual stream behind it, and the experts it used (T, K) if it has any."""
        normed_TD = self.backend.rms_norm(x_TD, weights.attention.norm, self.config.norm_eps)
        self.write_keys_values(weights.attention, normed_TD, cache, layer, rows)
        return self.finish_block(weights, x_TD, normed_TD, cache, layer, rows)

    def finish_block(
        self, weights: BlockWeights, x_TD: Array, normed_TD: Array, cache: Cache, layer: int, rows: Rows
    ) -> tuple[Array, Array | None]:
        """The block for rows whose keys and values stand in the cache already."""
        x_TD = x_TD + self.attention(weights.attention, normed_TD, cache, layer, rows)
        y_TD, expert_ids = self.feed_forward(
            weights.ffn, self.backend.rms_norm(x_TD, weights.ffn_norm, self.config.norm_eps)
        )
        return x_TD + y_TD, expert_ids

    def write_keys_values(
        self, weights: AttentionWeights, normed_TD: Array, cache: Cache, layer: int, rows: Rows
    ) -> None:
        """Key and value projections with RoPE: all that a row needs to be seen by later ones."""
        k_TGC = self.heads(self.backend.linear(normed_TD, weights.k, weights.k_bias))
        v_TGC = self.heads(self.backend.linear(normed_TD, weights.v, weights.v_bias))
        k_TGC = self.backend.head_norm_rope(k_TGC, rows, self.rope_table, weights.k_norm, self.config.norm_eps)
        cache.write(layer, rows, k_TGC, v_TGC)

    def attention(self, weights: AttentionWeights, normed_TD: Array, cache: Cache, layer: int, rows: Rows) -> Array:
        """What the rows read from the cache, projected back to D."""
        q_THC = self.heads(self.backend.linear(normed_TD, weights.q, weights.q_bias))
        q_THC = self.backend.head_norm_rope(q_THC, rows, self.rope_table, weights.q_norm, self.config.norm_eps)
        read_THC = self.backend.attention(q_THC, cache, layer, rows)
        return self.backend.linear(read_THC.reshape(len(rows), -1), weights.output)

    def heads(self, x: Array) -> Array:
        """(T, heads x C) -> (T, heads, C)."""
        return x.reshape(len(x), -1, self.config.head_size)

    def feed_forward(self, weights: FfnWeights | MoeWeights, x_TD: Array) -> tuple[Array, Array | None]:
        if isinstance(weights, FfnWeights):
            return self.backend.swiglu(x_TD, weights.gate, weights.up, weights.down), None
        config, backend = self.config, self.backend
        logits_TE = backend.linear(x_TD, weights.router)
        expert_ids_TK, weights_TK = backend.route(
            logits_TE,
            weights.router_bias,
            config.num_used_experts,
            config.expert_weights_norm,
            config.expert_weights_scale,
        )
        routed = backend.start_experts(x_TD, expert_ids_TK, weights_TK, weights.experts)
        shared = weights.shared
        shared_TD = None if shared is None else backend.swiglu(x_TD, shared.gate, shared.up, shared.down)
        y_TD = routed.wait()
        return y_TD if shared_TD is None else y_TD + shared_TD, routed.expert_ids_TK
