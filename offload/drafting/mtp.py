"""Drafts with the model's own MTP block.

After each verification the block is shown the kept tokens with their true states (`MtpBlock.fill`). The last of those
pairs, the newest token with the state before it, is the one whose output is the next draft: `propose` finishes it, so
n drafts cost n passes. Rows of drafts are overwritten in the block's cache as the true ones come in.

All of it happens on the block's device: drafts are drawn there and read back once, when all are drawn.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..backend import Array
from ..costs import kv_bytes, routed_bytes, weight_bytes
from ..mtp import MtpBlock
from ..rows import Rows
from ..sampling import DraftStart
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
        with self._backend.ledger.drafting(read_backs=0):
            pairs = self._backend.rows(Rows.concat(parts))
            u_TD = self._fill(pairs, self._backend.join_rows([o.hidden_TD for o in observations]))
        end = 0
        for observation, part in zip(observations, parts, strict=True):
            end += len(part)
            self._pending[observation.sequence] = _Pending(part[-1:], u_TD[end - 1 : end])

    def propose(self, sequences: Many[Sequence], lengths: Many[int]) -> list[Draft]:
        drafts = [Draft() for _ in sequences]
        wanted = [i for i, s in enumerate(sequences) if lengths[i] > 0 and s in self._pending]
        if not wanted:
            return drafts
        wanted.sort(key=lambda i: -lengths[i])  # those who go on are always the first rows
        with self._backend.ledger.drafting(read_backs=1):
            drawn = self._draw([sequences[i] for i in wanted], [lengths[i] for i in wanted])
        for i, (token_ids, p) in zip(wanted, drawn, strict=True):
            drafts[i] = Draft(token_ids, p)
        return drafts

    def _draw(self, sequences: Many[Sequence], lengths: Many[int]) -> list[tuple[list[int], list[float]]]:
        """Token ids and probabilities of drafts with these lengths, longest first."""
        pending = [self._pending[s] for s in sequences]
        starts = [DraftStart(s.sampler, len(s.token_ids), s.recent) for s in sequences]
        sampler = self._backend.draft_sampler(starts)
        pairs = self._backend.rows(Rows.concat([p.pair for p in pending]))
        u_TD = self._backend.join_rows([p.u for p in pending])
        for drafted in range(1, lengths[0] + 1):
            g_TD, logits_TV = self._finish(pairs, u_TD)
            token_ids_T = sampler.draw(logits_TV)
            going_on = sum(length > drafted for length in lengths)
            if going_on:
                pairs = pairs[:going_on].next(token_ids_T[:going_on])
                u_TD = self._fill(pairs, g_TD[:going_on])
        return sampler.read_back()

    def _fill(self, pairs: Rows, hidden_TD: Array) -> Array:
        self.bytes_read += self._fill_bytes
        return self.block.fill(pairs, hidden_TD)

    def _finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array]:
        g_TD, logits_TV, expert_ids = self.block.finish(pairs, u_TD)
        self.bytes_read += self._finish_bytes + kv_bytes(self.block.cache, pairs.host)
        self.bytes_read += routed_bytes([self.block.weights.block], [expert_ids])
        return g_TD, logits_TV
