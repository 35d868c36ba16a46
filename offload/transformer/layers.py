"""The two halves of a decoder block: attention and feed-forward, on rows.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experts import ExpertLayer

from ..cuts import Cut, take_all
from .backend import Array, Backend, Cache, LatentCache, Routed, Sent
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

    def block_of_some(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows, wanted: list[slice]
    ) -> tuple[Array, Array | None]:
        """The block for some of the rows; of the others only keys and values are stored."""
        normed_TD = self.backend.rms_norm(x_TD, weights.attention.norm, self.config.norm_eps)
        self.write_keys_values(weights.attention, normed_TD, cache, layer, rows)
        x_TD, normed_TD = self.kept(x_TD, wanted), self.kept(normed_TD, wanted)
        return self.finish_block(weights, x_TD, normed_TD, cache, layer, rows.take(wanted))

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
        x_TD, normed_TD = self._behind_attention(weights, x_TD, normed_TD, cache, layer, rows)
        ffn = weights.ffn
        if isinstance(ffn, FfnWeights):
            return x_TD + self.feed_forward(ffn, normed_TD), None
        expert_ids_TK, weights_TK = self.choose(ffn, normed_TD)
        if not isinstance(ffn.experts, ExpertLayer):
            y_TD = self.backend.mixture(normed_TD, expert_ids_TK, weights_TK, ffn.experts)
            shared_TD = None if ffn.shared is None else self.feed_forward(ffn.shared, normed_TD)
            return x_TD + (y_TD if shared_TD is None else y_TD + shared_TD), expert_ids_TK
        sent = self.backend.send(normed_TD, expert_ids_TK, weights_TK)
        shared_TD, sums, routed = self.wait(ffn, sent, lambda shared: self.feed_forward(shared, normed_TD), cut)
        x_TD, shared_TD = self.kept(x_TD, routed.kept), self.kept(shared_TD, routed.kept)
        return self.receive(x_TD, shared_TD, sums), routed.expert_ids_TK

    def send(
        self, weights: BlockWeights, x_TD: Array, cache: AnyCache, layer: int, rows: Rows
    ) -> tuple[Array, Array, Sent]:
        """A block up to its experts, which stand on the host: the residual stream, its norm, and what is sent there."""
        assert isinstance(weights.ffn, MoeWeights)
        normed_TD = self.backend.rms_norm(x_TD, weights.attention.norm, self.config.norm_eps)
        self.write_keys_values(weights.attention, normed_TD, cache, layer, rows)
        x_TD, normed_TD = self._behind_attention(weights, x_TD, normed_TD, cache, layer, rows)
        return x_TD, normed_TD, self.backend.send(normed_TD, *self.choose(weights.ffn, normed_TD))

    def wait(
        self, weights: MoeWeights, sent: Sent, shared: Callable[[FfnWeights], Array], cut: Cut
    ) -> tuple[Array | None, Any, Routed]:
        """What shared experts give meanwhile, what the host's are to be received as, and what became of the rows."""
        routed = self.backend.start_experts(sent, weights.experts)
        shared_TD = None if weights.shared is None else shared(weights.shared)
        return shared_TD, routed.wait(cut), routed

    def receive(self, x_TD: Array, shared_TD: Array | None, sums: Any) -> Array:
        """The residual stream behind a block whose experts stand on the host."""
        y_TD = self.backend.receive(sums)
        return x_TD + (y_TD if shared_TD is None else y_TD + shared_TD)

    def _behind_attention(
        self, weights: BlockWeights, x_TD: Array, normed_TD: Array, cache: AnyCache, layer: int, rows: Rows
    ) -> tuple[Array, Array]:
        """The residual stream behind attention, and its norm."""
        x_TD = x_TD + self.attention(weights.attention, normed_TD, cache, layer, rows)
        return x_TD, self.backend.rms_norm(x_TD, weights.ffn_norm, self.config.norm_eps)

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

    def choose(self, weights: MoeWeights, x_TD: Array) -> tuple[Array, Array]:
        """Expert ids int32 (T, K) of each row, and their weights."""
        logits_TE = self.backend.linear(x_TD, weights.router)
        expert_ids_TK, weights_TK = self.backend.route(logits_TE, weights.router_bias, self.config.routing)
        return expert_ids_TK, weights_TK

    def kept(self, x_TD: Array | None, parts: list[slice] | None) -> Array | None:
        """The rows that go on."""
        return x_TD if x_TD is None or parts is None else self.backend.join_rows([x_TD[part] for part in parts])

    def feed_forward(self, weights: FfnWeights, x_TD: Array) -> Array:
        """A dense layer's network, or the shared experts."""
        return self.backend.swiglu(x_TD, weights.gate, weights.up, weights.down)
