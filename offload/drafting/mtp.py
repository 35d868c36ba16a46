"""Drafts with the model's own MTP block.

After each verification the block is shown the kept tokens with their true states (`MtpBlock.fill`). The last of those
pairs, the newest token with the state before it, is the one whose output is the next draft: `propose` finishes it, so
n drafts cost n passes. Rows of drafts are overwritten in the block's cache as the true ones come in.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ..backend import Array
from ..costs import kv_bytes, routed_bytes, weight_bytes
from ..mtp import MtpBlock
from ..rows import Rows
from ..sampling import Draw
from ..sequence import Sequence
from .protocol import Draft, Observation


@dataclass(frozen=True)
class _Pending:
    """A pair that is filled but not finished: the residual stream (1, D) at a cache position."""

    pair: Rows
    u: Array


class MtpDrafter:
    def __init__(self, block: MtpBlock):
        self.block = block
        self._backend = block.layers.backend
        self.bytes_read = 0
        self._pending: WeakKeyDictionary[Sequence, _Pending] = WeakKeyDictionary()
        weights, attention = block.weights, block.weights.block.attention
        self._fill_bytes = weight_bytes((weights.projection, attention.k, attention.v))
        self._finish_bytes = weight_bytes((weights.block, weights.head)) - weight_bytes((attention.k, attention.v))

    def observe(self, observations: Many[Observation]) -> None:
        parts = [Rows.consecutive(o.sequence.slot, o.start, o.next_token_ids) for o in observations]
        u_TD = self._fill(Rows.concat(parts), self._backend.join_rows([o.hidden_TD for o in observations]))
        end = 0
        for observation, part in zip(observations, parts, strict=True):
            end += len(part)
            self._pending[observation.sequence] = _Pending(part[-1:], u_TD[end - 1 : end])

    def propose(self, sequences: Many[Sequence], lengths: Many[int]) -> list[Draft]:
        drafts = [Draft() for _ in sequences]
        active = [i for i, s in enumerate(sequences) if lengths[i] > 0 and s in self._pending]
        if not active:
            return drafts
        pending = [self._pending[sequences[i]] for i in active]
        pairs, u_TD = Rows.concat([p.pair for p in pending]), self._backend.join_rows([p.u for p in pending])
        while True:
            g_TD, logits_TV = self._finish(pairs, u_TD)
            for i, logits_V in zip(active, logits_TV, strict=True):
                draw = _draw(sequences[i], drafts[i], logits_V)
                drafts[i].token_ids.append(draw.token_id)
                drafts[i].p.append(draw.p)
            going_on = np.array([len(drafts[i]) < lengths[i] for i in active])
            if not going_on.any():
                return drafts
            active = [i for i, more in zip(active, going_on, strict=True) if more]
            tokens = np.array([drafts[i].token_ids[-1] for i in active], np.int64)
            pairs = Rows(tokens, pairs.slots[going_on], pairs.positions[going_on] + 1)
            u_TD = self._fill(pairs, g_TD[going_on])

    def _fill(self, pairs: Rows, hidden_TD: Array) -> Array:
        self.bytes_read += self._fill_bytes
        return self.block.fill(pairs, hidden_TD)

    def _finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, np.ndarray]:
        g_TD, logits_TV, expert_ids = self.block.finish(pairs, u_TD)
        self.bytes_read += self._finish_bytes + kv_bytes(self.block.cache, pairs)
        self.bytes_read += routed_bytes([self.block.weights.block], [expert_ids])
        return g_TD, logits_TV


def _draw(sequence: Sequence, draft: Draft, logits_V: np.ndarray) -> Draw:
    """The sequence's own sampler, so its own noise: the draft agrees with the trunk wherever their distributions do."""
    position = len(sequence.token_ids) + len(draft)
    return sequence.sampler.draw(logits_V, position, sequence.recent + draft.token_ids)
