"""A drafter of your own, worked out: an EAGLE-3-style head without a tree.

    f_p = fc @ [states of x_p behind a low, a middle and a high layer of the trunk]
    u_p = mix @ [RMSNorm(Emb[x_p]), RMSNorm(f_{p-1})]
    g_p = RMSNorm(decoder layer over u_1..u_p, with a cache of its own)      logits of x_{p+1} = head @ g_p

A drafted token is paired with g of the pair before it, in place of the f that the trunk has not computed yet.

What makes it a drafter (offload/drafting/protocol.py): it asks for the states of three layers (`taps`), takes each kept
row with its true next token into its own cache when it is shown them (`observe`), and guesses token after token on the
trunk's device (`propose`, by `draw_drafts`). Weights are random here, as for a start of training; what it drafts is
nearly always wrong then, and the text is the same all the same.

    model = offload.load("MODEL.gguf")
    drafter = EagleDrafter(model.trunk, num_slots=1, rng=np.random.default_rng(0))
    model.generate("Once", draft=3, drafter=drafter)

Source: EAGLE-3 (arXiv:2503.01840), whose head attends over both halves of the input; here they are mixed before.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import numpy as np

from experts import Matrix
from offload.costs import kv_bytes, weight_bytes
from offload.drafting import Draft, Observation, draw_drafts
from offload.sequence import Sequence
from offload.transformer.backend import Array
from offload.transformer.layers import Layers
from offload.transformer.rotary import rotary_table
from offload.transformer.rows import Rows
from offload.transformer.trunk import Trunk
from offload.transformer.weights import AttentionWeights, BlockWeights, FfnWeights
from scheduler import PASS_SOURCE, StepPlan

HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 32  # of the decoder layer


class EagleDrafter:
    """Args: the trunk that it drafts for, the slots of its caches, and what draws the weights."""

    keeps_slots = True

    def __init__(self, trunk: Trunk, num_slots: int, rng: np.random.Generator):
        config, self.backend = trunk.layers.config, trunk.layers.backend
        last = config.num_layers - 1
        self.taps = (0, last // 2, last)
        self.bytes_read = 0
        own = replace(
            config, latent=None, num_heads=HEADS, num_kv_heads=KV_HEADS, head_size=HEAD_SIZE, rotated_size=HEAD_SIZE
        )
        positions = trunk.cache.num_positions
        table = self.backend.upload_vector("EAGLE angles", rotary_table(positions, HEAD_SIZE, 10000.0, None, 1.0))
        self.layers = Layers(own, self.backend, table)
        self.weights = _random_weights(trunk, len(self.taps), rng)
        self.cache = self.backend.new_cache("EAGLE cache", (1, num_slots, KV_HEADS, positions, HEAD_SIZE), "f32")
        self._last: dict[int, tuple[Rows, Array]] = {}  # of each slot the newest pair and its u (1, D)

    def observe(self, observations: Many[Observation]) -> None:
        for o in observations:
            if not (o.next_token_ids and o.sequence.drafting.passes):
                continue
            states = o.tapped[self.taps[0]]
            for layer in self.taps[1:]:
                states = self.backend.join_features(states, o.tapped[layer])
            pairs = Rows.consecutive(o.sequence.slot, o.start, o.next_token_ids)
            u_TD = self.fill(self.backend.rows(pairs), self.backend.linear(states, self.weights.features))
            self._last[o.sequence.slot] = (pairs[-1:], u_TD[-1:])

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        drafts = [Draft(source=PASS_SOURCE) for _ in sequences]
        chosen = [i for i, more in enumerate(plan.extend(drafts)) if more]
        if chosen:
            wanted = [sequences[i] for i in chosen]
            chain = _Chain(self, [self._last[s.slot] for s in wanted])
            draw_drafts(chain, self.backend, wanted, drafts, chosen, plan)
        return drafts

    def fill(self, pairs: Rows, features_TD: Array) -> Array:
        """Mixes tokens with what stands before them, and stores the keys and values; returns u (T, D)."""
        backend, weights, eps = self.backend, self.weights, self.layers.config.norm_eps
        embedded = backend.rms_norm(backend.embed(weights.embedding, pairs.token_ids), weights.norm, eps)
        features = backend.rms_norm(features_TD, weights.norm, eps)
        u_TD = backend.linear(backend.join_features(embedded, features), weights.mix)
        self.layers.write_keys_values(weights.block.attention, self._normed(u_TD), self.cache, 0, pairs)
        return u_TD

    def finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array]:
        """g (T, D) and the draft logits (T, V)."""
        z_TD, _ = self.layers.finish_block(self.weights.block, u_TD, self._normed(u_TD), self.cache, 0, pairs)
        g_TD = self.backend.rms_norm(z_TD, self.weights.norm, self.layers.config.norm_eps)
        self.bytes_read += weight_bytes(self.weights) + kv_bytes(self.cache, pairs.host)
        return g_TD, self.backend.linear(g_TD, self.weights.head)

    def _normed(self, u_TD: Array) -> Array:
        return self.backend.rms_norm(u_TD, self.weights.norm, self.layers.config.norm_eps)


class _Chain:
    def __init__(self, drafter: EagleDrafter, last: Many[tuple[Rows, Array]]):
        self._drafter, self._join = drafter, drafter.backend.join_rows
        self._pairs = drafter.backend.rows(Rows.concat([pair for pair, _ in last]))
        self._u_TD = self._join([u_TD for _, u_TD in last])

    def guess(self) -> tuple[Array, None]:
        self._g_TD, logits_TV = self._drafter.finish(self._pairs, self._u_TD)
        return logits_TV, None

    def go_on(self, token_ids_T: Array, parts: Many[slice]) -> None:
        self._pairs = self._pairs.next(token_ids_T).take(parts)
        self._u_TD = self._drafter.fill(self._pairs, self._join([self._g_TD[part] for part in parts]))


@dataclass(frozen=True)
class EagleWeights:
    embedding: Array  # the trunk's
    features: Array  # fc (D, 3 D)
    mix: Array  # (D, 2 D)
    norm: Array  # (D,), for all norms alike
    block: BlockWeights
    head: Array  # the trunk's


def _random_weights(trunk: Trunk, num_taps: int, rng: np.random.Generator) -> EagleWeights:
    backend, D = trunk.layers.backend, trunk.layers.config.hidden_size

    def matrix(rows: int, columns: int) -> Array:
        values = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
        return backend.upload("EAGLE head", Matrix.from_dense(values))

    norm = backend.upload_vector("EAGLE norm", np.ones(D, np.float32))
    attention = AttentionWeights(
        norm=norm,
        q=matrix(HEADS * HEAD_SIZE, D),
        k=matrix(KV_HEADS * HEAD_SIZE, D),
        v=matrix(KV_HEADS * HEAD_SIZE, D),
        output=matrix(D, HEADS * HEAD_SIZE),
        q_bias=None,
        k_bias=None,
        v_bias=None,
        q_norm=None,
        k_norm=None,
    )
    ffn = FfnWeights(matrix(2 * D, D), matrix(2 * D, D), matrix(D, 2 * D))
    block = BlockWeights(attention, norm, ffn)
    return EagleWeights(
        trunk.weights.embedding, matrix(D, num_taps * D), matrix(D, 2 * D), norm, block, trunk.weights.head
    )
