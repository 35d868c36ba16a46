"""The two halves of a decoder block: attention and feed-forward, on rows.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size.
"""

from dataclasses import dataclass
from typing import Any

from ..backends.protocol import Array, Backend, Cache, LatentCache, Routed
from ..cuts import Cut, take_all
from .config import ModelConfig
from .latent import LatentAttention
from .rows import Rows
from .weights import AttentionWeights, BlockWeights, FfnWeights, LatentAttentionWeights, MoeWeights

AnyCache = Cache | LatentCache
AnyAttention = AttentionWeights | LatentAttentionWeights


@dataclass(frozen=True)
class Layers:
    """What every block needs besides its weights."""

    config: ModelConfig
    backend: Backend
    rope_table: Array  # (S, 2, R / 2)

    def block(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows, cut: Cut = take_all
    ) -> tuple[Array, Array | None]:
        """One decoder block: the residual stream behind it, and the experts it used (T, K) if it has any.

        Where these are on the host, `cut` says which of the rows go on behind the routing.
        """
        normed_TD = self.backend.rms_norm(x_TD, weights.attention.norm, self.config.norm_eps)
        self.write_keys_values(weights.attention, normed_TD, cache, layer, rows)
        return self.finish_block(weights, x_TD, normed_TD, cache, layer, rows, cut)

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
        """The block for rows whose keys and values stand in the cache already."""
        x_TD = x_TD + self.attention(weights.attention, normed_TD, cache, layer, rows)
        normed_TD = self.backend.rms_norm(x_TD, weights.ffn_norm, self.config.norm_eps)
        if isinstance(weights.ffn, FfnWeights):
            return x_TD + self.feed_forward(weights.ffn, normed_TD), None
        y_TD, routed = self.mixture(weights.ffn, normed_TD, cut)
        return self._kept(x_TD, routed) + y_TD, routed.expert_ids_TK

    def write_keys_values(self, weights: AnyAttention, normed_TD: Array, cache: Any, layer: int, rows: Rows) -> None:
        """Key and value projections with RoPE: all that a row needs to be seen by later ones."""
        if isinstance(weights, LatentAttentionWeights):
            self._latent.write(weights, normed_TD, cache, layer, rows)
            return
        k_TGC = self.heads(self.backend.linear(normed_TD, weights.k, weights.k_bias))
        v_TGC = self.heads(self.backend.linear(normed_TD, weights.v, weights.v_bias))
        k_TGC = self.backend.head_norm_rope(k_TGC, rows, self.rope_table, weights.k_norm, self.config.norm_eps)
        cache.write(layer, rows, k_TGC, v_TGC)

    def attention(self, weights: AnyAttention, normed_TD: Array, cache: Any, layer: int, rows: Rows) -> Array:
        """What the rows read from the cache, projected back to D."""
        if isinstance(weights, LatentAttentionWeights):
            return self._latent.read(weights, normed_TD, cache, layer, rows)
        q_THC = self.heads(self.backend.linear(normed_TD, weights.q, weights.q_bias))
        q_THC = self.backend.head_norm_rope(q_THC, rows, self.rope_table, weights.q_norm, self.config.norm_eps)
        read_THC = self.backend.attention(q_THC, cache, layer, rows)
        return self.backend.linear(read_THC.reshape(len(rows), -1), weights.output)

    @property
    def _latent(self) -> LatentAttention:
        assert self.config.latent is not None
        return LatentAttention(self.config, self.config.latent, self.backend, self.rope_table)

    def heads(self, x: Array) -> Array:
        """(T, heads x C) -> (T, heads, C)."""
        return x.reshape(len(x), -1, self.config.head_size)

    def mixture(self, weights: MoeWeights, x_TD: Array, cut: Cut) -> tuple[Array, Routed]:
        """Routed and shared experts, of the rows that go on, and what became of the rows."""
        backend = self.backend
        logits_TE = backend.linear(x_TD, weights.router)
        expert_ids_TK, weights_TK = backend.route(logits_TE, weights.router_bias, self.config.routing)
        routed = backend.start_experts(x_TD, expert_ids_TK, weights_TK, weights.experts)
        shared = weights.shared
        shared_TD = None if shared is None else self.feed_forward(shared, x_TD)
        y_TD = routed.wait(cut)
        return y_TD if shared_TD is None else y_TD + self._kept(shared_TD, routed), routed

    def feed_forward(self, weights: FfnWeights, x_TD: Array) -> Array:
        """A dense layer's network, or the shared experts."""
        return self.backend.swiglu(x_TD, weights.gate, weights.up, weights.down)

    def _kept(self, x_TD: Array, routed: Routed) -> Array:
        """The rows that go on."""
        return x_TD if routed.kept is None else self.backend.join_rows([x_TD[part] for part in routed.kept])
