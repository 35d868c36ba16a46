"""Attention over compressed keys and values (multi-head latent attention), in its absorbed form.

    row  = [RMSNorm(kv_down x), RoPE(rotated part)]          all that the cache holds of a token, one for all heads
    q_h  = [plain part in latent space = k_heads_h q_h, RoPE(rotated part)]
    read = softmax(q_h row^T) row's latent part; v_heads_h takes it to the head's values

Keys and values are never expanded: the products with their projections are made on the side of the queries.

Shapes: T rows, D hidden, H heads, P plain and R rotated dimensions of a query, L rank of keys and values, C = L + R.
Source: DeepSeek-V2 (arXiv:2405.04434, section 2.1 and appendix C).
"""

import math
from dataclasses import dataclass

from .backend import Array, Backend, LatentCache
from .config import LatentSizes, ModelConfig
from .rows import Rows
from .weights import LatentAttentionWeights


@dataclass(frozen=True)
class LatentAttention:
    config: ModelConfig
    sizes: LatentSizes
    backend: Backend
    rope_table: Array  # (S, 2, R / 2)

    def write(
        self, weights: LatentAttentionWeights, normed_TD: Array, cache: LatentCache, layer: int, rows: Rows
    ) -> None:
        """Stores the rows: all that a token needs to be seen by later ones."""
        x_TC = self.backend.linear(normed_TD, weights.kv_down)
        latent_TL = self.backend.rms_norm(x_TC[:, : self.sizes.kv_rank], weights.kv_norm, self.config.norm_eps)
        rotated_T1R = self._rotated(x_TC[:, None, self.sizes.kv_rank :], rows)
        cache.write(layer, rows, self.backend.join_features(latent_TL, rotated_T1R[:, 0]))

    def read(
        self, weights: LatentAttentionWeights, normed_TD: Array, cache: LatentCache, layer: int, rows: Rows
    ) -> Array:
        """What the rows read from the cache, projected back to D."""
        backend, (T, H) = self.backend, (len(rows), self.config.num_heads)
        if weights.q_down is not None:
            x = backend.linear(normed_TD, weights.q_down)
            normed_TD = backend.rms_norm(x, weights.q_down_norm, self.config.norm_eps)
        q = backend.linear(normed_TD, weights.q).reshape(T, H, -1)
        latent_THL = backend.linear_heads(q[..., : self.sizes.plain_size], weights.k_heads)
        rotated_THR = self._rotated(q[..., self.sizes.plain_size :], rows)
        q = backend.join_features(latent_THL.reshape(T * H, -1), rotated_THR.reshape(T * H, -1))
        q = q.reshape(T, H, -1) * self._scale
        read_THL = backend.latent_attention(q, cache, layer, rows)[..., : self.sizes.kv_rank]
        return backend.linear(backend.linear_heads(read_THL, weights.v_heads).reshape(T, -1), weights.output)

    @property
    def _scale(self) -> float:
        """The cache's attention divides by the root of C; meant is the scale of the expanded keys."""
        return self.config.score_scale * math.sqrt(self.config.head_size)

    def _rotated(self, x_THR: Array, rows: Rows) -> Array:
        """Files pair neighbouring dimensions; here each half has one of a pair, which no product of two rows sees."""
        T, H, R = x_THR.shape
        halves = x_THR.reshape(T, H, R // 2, 2).swapaxes(2, 3).reshape(T, H, R)
        return self.backend.head_norm_rope(halves, rows, self.rope_table, None, self.config.norm_eps)
