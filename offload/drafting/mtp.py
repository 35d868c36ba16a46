"""Drafts with the model's own MTP block.

After each verification the block is to see the kept tokens with their true states (`MtpBlock.fill`). That waits until a
draft is wanted, so that plain decoding does not pay for it: the pairs queue up, and are filled together. The last of
them, the newest token with the state before it, is the one whose output is the next draft: `propose` finishes it, so n
drafts cost n passes. Rows of drafts are overwritten in the block's cache as the true ones come in.

All of it happens on the block's device. Drafts are drawn there; where the plan's lengths are fixed they are read back
once, when all are drawn, and where it asks how sure the block is of each, each once.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np

from scheduler import PASS_SOURCE, StepPlan

from ..backend import Array, DraftSampler
from ..costs import kv_bytes, routed_bytes, weight_bytes
from ..mtp import MtpBlock
from ..rows import Rows
from ..sampling import DraftStart
from ..sequence import Sequence
from .protocol import Draft, Observation

MOST_QUEUED = 512  # pairs of a slot that wait to be filled; their states take 20 KB each in GLM-4.7


@dataclass
class _Slot:
    """What is known of a cache slot: pairs that wait, oldest first, and the last pair that was filled, unfinished."""

    queued: list[tuple[Rows, Array]] = field(default_factory=list)  # with the states (T, D) before their tokens
    last: tuple[Rows, Array] | None = None  # one pair and its residual stream (1, D)

    @property
    def num_queued(self) -> int:
        return sum(len(pairs) for pairs, _ in self.queued)

    def forget_from(self, position: int) -> None:
        """Drops queued pairs from a position on: another sequence has taken the slot over."""
        while self.queued and self.queued[-1][0].positions[-1] >= position:
            pairs, hidden_TD = self.queued.pop()
            keep = position - int(pairs.positions[0])
            if keep > 0:
                self.queued.append((pairs[:keep], hidden_TD[:keep]))


class MtpDrafter:
    def __init__(self, block: MtpBlock):
        self.block = block
        self._backend = block.layers.backend
        self.bytes_read = 0
        self._slots: dict[int, _Slot] = {}
        weights, attention = block.weights, block.weights.block.attention
        self._fill_bytes = weight_bytes((weights.projection, attention.k, attention.v))
        self._finish_bytes = weight_bytes((weights.block, weights.head)) - weight_bytes((attention.k, attention.v))

    def observe(self, observations: Many[Observation]) -> None:
        for o in observations:
            slot = self._slots.setdefault(o.sequence.slot, _Slot())
            slot.forget_from(o.start)
            slot.queued.append((Rows.consecutive(o.sequence.slot, o.start, o.next_token_ids), o.hidden_TD))
        with self._backend.ledger.drafting(read_backs=0):
            self._fill_queued([s for s in self._slots.values() if s.num_queued >= MOST_QUEUED])

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        drafts = [Draft(source=PASS_SOURCE) for _ in sequences]
        wanted = [i for i, more in enumerate(plan.extend(drafts)) if more]
        if not wanted:
            return drafts
        wanted.sort(key=lambda i: -plan.limits[i])  # where lengths are fixed, those who go on are the first rows
        chosen = [sequences[i] for i in wanted]
        slots = [self._slots[s.slot] for s in chosen]
        plan.late = sum(max(0, slot.num_queued - 1) for slot in slots)
        limits = [plan.limits[i] for i in wanted]
        with self._backend.ledger.drafting(read_backs=limits[0] if plan.adaptive else 1):
            self._fill_queued([slot for slot in slots if slot.queued])
            sampler = self._backend.draft_sampler([DraftStart(s.sampler, len(s.token_ids), s.recent) for s in chosen])
            if plan.adaptive:
                self._draw_asking(plan, drafts, wanted, slots, sampler)
            else:
                self._draw(limits, [drafts[i] for i in wanted], slots, sampler)
                _take_over(drafts, wanted, sampler)
        return drafts

    def _draw(self, lengths: Many[int], drafts: Many[Draft], slots: Many[_Slot], sampler: DraftSampler) -> None:
        """Drafts of these lengths, longest first."""
        pairs, u_TD = self._first_pairs(slots)
        for drafted in range(1, lengths[0] + 1):
            g_TD, logits_TV, expert_ids_TK = self._finish(pairs, u_TD)
            token_ids_T = sampler.draw(logits_TV)
            _note_experts(drafts, expert_ids_TK)
            going_on = sum(length > drafted for length in lengths)
            if going_on:
                pairs = pairs[:going_on].next(token_ids_T[:going_on])
                u_TD = self._fill(pairs, g_TD[:going_on])

    def _draw_asking(
        self, plan: StepPlan, drafts: list[Draft], active: list[int], slots: Many[_Slot], sampler: DraftSampler
    ) -> None:
        """One token after the other, for the sequences (numbers in `active`) for which the plan wants it."""
        order = list(active)
        pairs, u_TD = self._first_pairs(slots)
        while True:
            g_TD, logits_TV, expert_ids_TK = self._finish(pairs, u_TD)
            sampler.draw(logits_TV)
            _take_over(drafts, order, sampler)
            _note_experts([drafts[i] for i in active], expert_ids_TK)
            wanted = plan.extend(drafts)
            going_on = [wanted[i] for i in active]
            if not any(going_on):
                return
            sampler.go_on(going_on)
            active = [i for i, more in zip(active, going_on, strict=True) if more]
            following = pairs.host[np.array(going_on)].next(np.array([drafts[i].token_ids[-1] for i in active]))
            pairs = self._backend.rows(following)
            g_TD = self._backend.join_rows([g_TD[t : t + 1] for t, more in enumerate(going_on) if more])
            u_TD = self._fill(pairs, g_TD)

    def _first_pairs(self, slots: Many[_Slot]) -> tuple[Rows, Array]:
        """The filled pairs whose outputs are the first drafts."""
        last = [slot.last for slot in slots if slot.last is not None]
        assert len(last) == len(slots), "a draft is wanted only behind a step that gave a token"
        pairs = self._backend.rows(Rows.concat([pair for pair, _ in last]))
        return pairs, self._backend.join_rows([u_TD for _, u_TD in last])

    def _fill_queued(self, slots: Many[_Slot]) -> None:
        """Fills what these slots have queued, in one go."""
        if not slots:
            return
        parts = [part for slot in slots for part in slot.queued]
        pairs = self._backend.rows(Rows.concat([pairs for pairs, _ in parts]))
        u_TD = self._fill(pairs, self._backend.join_rows([hidden_TD for _, hidden_TD in parts]))
        end = 0
        for slot in slots:
            end += slot.num_queued
            slot.last = (slot.queued[-1][0][-1:], u_TD[end - 1 : end])
            slot.queued.clear()

    def _fill(self, pairs: Rows, hidden_TD: Array) -> Array:
        self.bytes_read += self._fill_bytes
        return self.block.fill(pairs, hidden_TD)

    def _finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array, Array]:
        g_TD, logits_TV, expert_ids_TK = self.block.finish(pairs, u_TD)
        self.bytes_read += self._finish_bytes + kv_bytes(self.block.cache, pairs.host)
        self.bytes_read += routed_bytes([self.block.weights.block], [expert_ids_TK])
        return g_TD, logits_TV, expert_ids_TK


def _note_experts(drafts: Many[Draft], expert_ids_TK: Array) -> None:
    """Remembers what the pass used for each draft; from an accelerator that does not come to the host."""
    if isinstance(expert_ids_TK, np.ndarray):
        for draft, ids_K in zip(drafts, expert_ids_TK, strict=False):
            draft.expert_ids.append(ids_K)


def _take_over(drafts: list[Draft], order: Many[int], sampler: DraftSampler) -> None:
    """Sets tokens and probabilities of the drafts that the sampler draws, in its order."""
    for i, (token_ids, p) in zip(order, sampler.read_back(), strict=True):
        drafts[i].token_ids[:], drafts[i].p[:] = token_ids, p
