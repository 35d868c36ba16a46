"""Drafts with the model's own MTP block.

After each verification the block is to see the kept tokens with their true states (`MtpBlock.fill`). That waits until a
draft is wanted, so that plain decoding does not pay for it: the pairs queue up, and are filled together. The last of
them, the newest token with the state before it, is the one whose output is the next draft: `propose` finishes it, so n
drafts cost n passes. Rows of drafts are overwritten in the block's cache as the true ones come in.

All of it happens on the block's device. Drafts are drawn there, and where that is an accelerator they are read back
once, when all are drawn: the plan then decides how far to go without having seen them, and may still drop their tail.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from scheduler import PASS_SOURCE, UNSEEN, StepPlan

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
        weights, of_cache = block.weights, block.weights.block.attention.of_cache
        self._fill_bytes = weight_bytes((weights.projection, of_cache))
        self._finish_bytes = weight_bytes((weights.block, weights.head)) - weight_bytes(of_cache)

    def observe(self, observations: Many[Observation]) -> None:
        for o in observations:
            if not o.sequence.drafting.mtp:
                continue
            slot = self._slots.setdefault(o.sequence.slot, _Slot())
            slot.forget_from(o.start)
            slot.queued.append((Rows.consecutive(o.sequence.slot, o.start, o.next_token_ids), o.hidden_TD))
        with self._backend.ledger.drafting(read_backs=0):
            self._fill_queued([s for s in self._slots.values() if s.num_queued >= MOST_QUEUED])

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Makes what the block was shown of the first positions of a slot stand in another slot too."""
        slot = self._slots.get(source)
        with self._backend.ledger.drafting(read_backs=0):
            self._fill_queued([slot] if slot and slot.queued else [])
            self.block.cache.copy_slot(source, target, num_positions)
        self._slots[target] = _Slot()

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        drafts = [Draft(source=PASS_SOURCE) for _ in sequences]
        chosen = [i for i, more in enumerate(plan.extend(drafts)) if more]
        if not chosen:
            return drafts
        slots = [self._slots[sequences[i].slot] for i in chosen]
        plan.late = sum(max(0, slot.num_queued - 1) for slot in slots)
        with self._backend.ledger.drafting(read_backs=1):
            self._fill_queued([slot for slot in slots if slot.queued])
            self._draw([sequences[i] for i in chosen], slots, drafts, chosen, plan)
        return drafts

    def _draw(
        self, sequences: Many[Sequence], slots: Many[_Slot], drafts: list[Draft], chosen: list[int], plan: StepPlan
    ) -> None:
        """Extends the chosen drafts, those of `sequences`, one token a pass, for as long as the plan wants."""
        backend = self._backend
        sampler = backend.draft_sampler([DraftStart(s.sampler, len(s.token_ids), s.recent) for s in sequences])
        last = [slot.last for slot in slots if slot.last is not None]
        assert len(last) == len(slots), "a draft is wanted only behind a step that gave a token"
        pairs = backend.rows(Rows.concat([pair for pair, _ in last]))
        u_TD = backend.join_rows([u_TD for _, u_TD in last])
        active = list(range(len(chosen)))  # of `sequences`
        while True:
            g_TD, logits_TV, expert_ids_TK = self._finish(pairs, u_TD)
            token_ids_T = sampler.draw(active, logits_TV)
            for t, k in enumerate(active):
                drafts[chosen[k]].token_ids.append(UNSEEN)
                if backend.reads_back_freely:
                    drafts[chosen[k]].expert_ids.append(expert_ids_TK[t])
            if backend.reads_back_freely:
                _show(sampler, drafts, chosen)
            wanted = plan.extend(drafts)
            going_on = [slice(t, t + 1) for t, k in enumerate(active) if wanted[chosen[k]]]
            if not going_on:
                break
            active = [k for k in active if wanted[chosen[k]]]
            pairs = pairs.next(token_ids_T).take(going_on)
            u_TD = self._fill(pairs, backend.join_rows([g_TD[part] for part in going_on]))
        if not backend.reads_back_freely:
            _show(sampler, drafts, chosen)

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


def _show(sampler: DraftSampler, drafts: list[Draft], chosen: list[int]) -> None:
    """Reads back what was drawn."""
    for i, (token_ids, p) in zip(chosen, sampler.read_back(), strict=True):
        drafts[i].token_ids[:], drafts[i].p[:] = token_ids, p
