"""The MTP (NextN) block: from a token and the trunk's state before it to a draft of the token after it.

    u_p = eh_proj @ [RMSNorm(Emb[x_p]), RMSNorm(h_{p-1})]      h behind the trunk's output norm
    z_p = decoder block over u_1..u_p, with a cache of its own
    g_p = RMSNorm(z_p)                                           draft logits of x_{p+1} = head @ g_p

The first pair is (x_1, h_0), as in training: x_0 has no state before it. RoPE is relative, so pair p takes cache
position p - 1. A drafted token is paired with g of the pair before it, in place of the h that the trunk has not
computed yet.

To be seen by later pairs a pair needs its key and value only. So `fill` stops there, and `finish` runs attention,
experts and head for the pairs whose draft is wanted.

Source: DeepSeek-V3 (arXiv:2412.19437, section 2.2), as GLM-4.5 to 4.7 use it.
"""

from dataclasses import dataclass

from .backend import Array, Cache, LatentCache
from .layers import Layers
from .rows import Rows, check_room
from .weights import MtpWeights


@dataclass(frozen=True)
class MtpBlock:
    layers: Layers
    weights: MtpWeights
    cache: Cache | LatentCache

    def fill(self, pairs: Rows, hidden_TD: Array) -> Array:
        """Stores the pairs' keys and values.

        Args:
            pairs: tokens x_p at cache positions p - 1, on the block's device.
            hidden_TD: the state before each token: h_{p-1}, or g_{p-1} behind a draft.

        Returns:
            The residual stream u (T, D) that `finish` goes on from.

        Cost: reads eh_proj and the k and v projections; neither experts nor head.
        """
        check_room(pairs.host, self.cache.num_positions)
        backend = self.layers.backend
        return backend.lasting(backend.replay(("MTP fill", id(self)), self._fill, pairs, hidden_TD)[0])

    def _fill(self, pairs: Rows, hidden_TD: Array) -> tuple[Array]:
        backend, eps = self.layers.backend, self.layers.config.norm_eps
        embedded = backend.rms_norm(
            backend.embed(self.weights.embedding, pairs.token_ids), self.weights.embedding_norm, eps
        )
        hidden = backend.rms_norm(hidden_TD, self.weights.hidden_norm, eps)
        u_TD = backend.linear(backend.join_features(embedded, hidden), self.weights.projection)
        self.layers.write_keys_values(self.weights.block.attention, self.normed(u_TD), self.cache, 0, pairs)
        return (u_TD,)

    def finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array, Array]:
        """Runs the rest of the block for filled pairs.

        Returns:
            g (T, D), the draft logits float32 (T, V), and the experts used int32 (T, K), all on the block's device.
        """
        backend = self.layers.backend
        g_TD, *rest = backend.replay(("MTP finish", id(self)), self._finish, pairs, u_TD)
        return backend.lasting(g_TD), *rest

    def _finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array, Array]:
        backend = self.layers.backend
        z_TD, expert_ids = self.layers.finish_block(self.weights.block, u_TD, self.normed(u_TD), self.cache, 0, pairs)
        assert expert_ids is not None, "the MTP block always has experts"
        g_TD = backend.rms_norm(z_TD, self.weights.head_norm, self.layers.config.norm_eps)
        return g_TD, backend.linear(g_TD, self.weights.head), expert_ids

    def normed(self, u_TD: Array) -> Array:
        """What attention reads of the residual stream."""
        return self.layers.backend.rms_norm(u_TD, self.weights.block.attention.norm, self.layers.config.norm_eps)
