"""Drafts with the model's own MTP block.

After each verification the block is to see the kept tokens with their true states (`MtpBlock.fill`). Rows of a prompt
are shown at once, for a small share of the prompt's time, so that no generated token waits for them. Later ones wait
until a draft is wanted, so that plain decoding does not pay for them: the pairs queue up, and are filled together. The
last of them, the newest token with the state before it, is the one whose output is the next draft: `propose` finishes
it, so n drafts cost n passes. Rows of drafts are overwritten in the block's cache as the true ones come in.

All of it happens on the block's device.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from scheduler import NO_DRAFT, PASS_SOURCE, StepPlan

from ..backends.memory import MOST_QUEUED
from ..costs import RoutedBytes, kv_bytes, weight_bytes
from ..sequence import Sequence
from ..transformer.backend import Array
from ..transformer.mtp import MtpBlock
from ..transformer.rows import Rows
from .chain import draw_drafts
from .protocol import Draft, Observation


@dataclass
class _Slot:
    """What is known of a cache slot: pairs that wait, oldest first, and the last pair that was filled, unfinished."""

    index: int
    queued: list[tuple[int, list[int], Array]] = field(default_factory=list)  # position, tokens, states before them
    num_queued: int = 0  # pairs
    last: tuple[Rows, Array] | None = None  # one pair and its residual stream (1, D)

    def queue(self, start: int, token_ids: list[int], hidden_TD: Array) -> None:
        """Pairs from position `start` on; what is queued of there and behind is forgotten: the slot was taken over."""
        while self.queued and (keep := start - self.queued[-1][0]) < len(self.queued[-1][1]):
            before, ids, states_TD = self.queued.pop()
            self.num_queued -= len(ids)
            if keep > 0:
                self._append(before, ids[:keep], states_TD[:keep])
        self._append(start, token_ids, hidden_TD)

    def _append(self, start: int, token_ids: list[int], hidden_TD: Array) -> None:
        self.queued.append((start, token_ids, hidden_TD))
        self.num_queued += len(token_ids)


class MtpDrafter:
    keeps_slots = True
    taps = ()

    def __init__(self, block: MtpBlock):
        self.block = block
        self.backend = block.layers.backend
        self.bytes_read = 0
        self._slots: dict[int, _Slot] = {}
        self._routed_bytes = RoutedBytes([block.weights.block])
        weights, of_cache = block.weights, block.weights.block.attention.of_cache
        self._fill_bytes = weight_bytes((weights.projection, of_cache))
        self._finish_bytes = weight_bytes((weights.block, weights.head)) - weight_bytes(of_cache)

    def observe(self, observations: Many[Observation]) -> None:
        full = []
        for o in observations:
            if not o.sequence.drafting.passes:
                continue
            slot = self._slot(o.sequence.slot)
            slot.queue(o.start, o.next_token_ids, o.hidden_TD)
            if o.start < o.sequence.num_prompt - 1 or slot.num_queued >= MOST_QUEUED:
                full.append(slot)
        if full:
            self._fill_queued(full)

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Makes what the block was shown of the first positions of a slot stand in another slot too."""
        slot = self._slots.get(source)
        with self.backend.ledger.drafting(read_backs=0):
            self._fill_queued([slot] if slot else [])
            self.block.cache.copy_slot(source, target, num_positions)
        self._slots[target] = _Slot(target)

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        none = [NO_DRAFT] * len(sequences)
        chosen = [i for i, more in enumerate(plan.extend(none)) if more]
        if not chosen:
            return none
        drafts = [Draft(source=PASS_SOURCE) if i in chosen else NO_DRAFT for i in range(len(sequences))]
        slots = [self._slots[sequences[i].slot] for i in chosen]
        plan.late = sum(max(0, slot.num_queued - 1) for slot in slots)
        self._fill_queued(slots)
        last = [slot.last for slot in slots if slot.last is not None]
        assert len(last) == len(slots), "a draft is wanted only behind a step that gave a token"
        draw_drafts(_Chain(self, last), self.backend, [sequences[i] for i in chosen], drafts, chosen, plan)
        return drafts

    def _fill_queued(self, slots: Many[_Slot]) -> None:
        """Fills what these slots have queued, in one go."""
        slots = [slot for slot in slots if slot.queued]
        if not slots:
            return
        rows = [Rows.consecutive(slot.index, start, ids) for slot in slots for start, ids, _ in slot.queued]
        hidden_TD = self.backend.join_rows([states_TD for slot in slots for _, _, states_TD in slot.queued])
        pairs = Rows.concat(rows)
        u_TD = self.fill(self.backend.rows(pairs), hidden_TD)
        end = 0
        for slot in slots:
            end += slot.num_queued
            slot.last = (pairs[end - 1 : end], u_TD[end - 1 : end])
            slot.queued.clear()
            slot.num_queued = 0

    def _slot(self, index: int) -> _Slot:
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = _Slot(index)
        return slot

    def fill(self, pairs: Rows, hidden_TD: Array) -> Array:
        self.bytes_read += self._fill_bytes
        return self.block.fill(pairs, hidden_TD)

    def finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, Array, Array]:
        g_TD, logits_TV, expert_ids_TK = self.block.finish(pairs, u_TD)
        self.bytes_read += self._finish_bytes + kv_bytes(self.block.cache, pairs.host)
        self.bytes_read += self._routed_bytes([expert_ids_TK])
        return g_TD, logits_TV, expert_ids_TK


class _Chain:
    """The block behind the last pairs of some slots; a drafted token is paired with the block's own state before it."""

    def __init__(self, drafter: MtpDrafter, last: Many[tuple[Rows, Array]]):
        self._drafter, self._join = drafter, drafter.backend.join_rows
        self._pairs = drafter.backend.rows(Rows.concat([pair for pair, _ in last]))
        self._u_TD = self._join([u_TD for _, u_TD in last])

    def guess(self) -> tuple[Array, Array]:
        self._g_TD, logits_TV, expert_ids_TK = self._drafter.finish(self._pairs, self._u_TD)
        return logits_TV, expert_ids_TK

    def go_on(self, token_ids_T: Array, parts: Many[slice]) -> None:
        self._pairs = self._pairs.next(token_ids_T).take(parts)
        self._u_TD = self._drafter.fill(self._pairs, self._join([self._g_TD[part] for part in parts]))
