"""Drafts with a second, small model that has the same vocabulary.

It sees tokens only. What its cache holds of a slot is compared with the sequence when a draft is wanted: from the first
token that differs on (a rejected draft, or another sequence) it is computed anew. So nothing has to be shown to it, and
sequences that are not drafted for cost it nothing.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from scheduler import NO_DRAFT, PASS_SOURCE, StepPlan

from ..costs import RoutedBytes, kv_bytes, weight_bytes
from ..sequence import Sequence
from ..transformer.backend import Array
from ..transformer.rows import Rows
from ..transformer.trunk import Trunk
from .chain import draw_drafts
from .protocol import Draft, Observation


@dataclass
class _Slot:
    """Tokens whose keys and values stand in a slot of the draft model's cache, from position 0 on."""

    token_ids: list[int] = field(default_factory=list)

    def keep_shared(self, token_ids: Many[int]) -> int:
        """Forgets what differs from these tokens, and their last one; the number that is left."""
        most, shared = min(len(self.token_ids), len(token_ids) - 1), 0
        step = 64  # most often all but the last few are the same
        while shared < most and self.token_ids[shared : shared + step] == token_ids[shared : shared + step]:
            shared += step
        shared = min(shared, most)
        while shared < most and self.token_ids[shared] == token_ids[shared]:
            shared += 1
        del self.token_ids[shared:]
        return shared


class ModelDrafter:
    """Args: the draft model, its caches with as many slots and positions as the trunk's, on the trunk's device."""

    keeps_slots = False
    taps = ()

    def __init__(self, trunk: Trunk, chunk_size: int):
        self.trunk, self.backend, self._chunk_size = trunk, trunk.layers.backend, chunk_size
        self.bytes_read = 0
        self._slots: dict[int, _Slot] = {}
        self._routed_bytes = RoutedBytes(trunk.weights.blocks)
        self._block_bytes, self._head_bytes = weight_bytes(trunk.weights.blocks), weight_bytes(trunk.weights.head)

    def observe(self, observations: Many[Observation]) -> None:
        """Nothing to learn: the sequences' own tokens say it all."""

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        none = [NO_DRAFT] * len(sequences)
        chosen = [i for i, more in enumerate(plan.extend(none)) if more]
        if not chosen:
            return none
        drafts = [Draft(source=PASS_SOURCE) if i in chosen else NO_DRAFT for i in range(len(sequences))]
        drafted = [sequences[i] for i in chosen]
        starts = [self._slots.setdefault(s.slot, _Slot()).keep_shared(s.token_ids) for s in drafted]
        plan.late = sum(len(s.token_ids) - start - 1 for s, start in zip(drafted, starts, strict=True))
        rows = [self._read(s, start) for s, start in zip(drafted, starts, strict=True)]
        draw_drafts(_Chain(self, rows), self.backend, drafted, drafts, chosen, plan)
        for s, i in zip(drafted, chosen, strict=True):
            self._slots[s.slot].token_ids = [*s.token_ids, *drafts[i].token_ids[:-1]]  # the last one was not run
        return drafts

    def run(self, placed: Rows) -> Array:
        """The states (T, D) of rows on the device."""
        passed = self.trunk.run(placed)
        self.bytes_read += self._block_bytes + self._routed_bytes(passed.expert_ids)
        self.bytes_read += kv_bytes(self.trunk.cache, placed.host)
        return passed.hidden_TD

    def scores(self, hidden_TD: Array) -> Array:
        self.bytes_read += self._head_bytes
        return self.trunk.scores(hidden_TD)

    def _read(self, sequence: Sequence, start: int) -> Rows:
        """Runs what the cache lacks of a sequence in chunks; the last of them is left to the first draft."""
        rows = Rows.consecutive(sequence.slot, start, sequence.token_ids[start:])
        while len(rows) > self._chunk_size:
            self.run(self.backend.rows(rows[: self._chunk_size]))
            rows = rows[self._chunk_size :]
        return rows


class _Chain:
    """The draft model behind the last rows of some slots."""

    def __init__(self, drafter: ModelDrafter, parts: Many[Rows]):
        self._drafter = drafter
        self._rows = drafter.backend.rows(Rows.concat(parts))
        ends = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]
        self._last: list[slice] | None = [slice(end - 1, end) for end in ends]  # of each part

    def guess(self) -> tuple[Array, None]:
        hidden_TD = self._drafter.run(self._rows)
        if self._last is not None:
            hidden_TD = self._drafter.backend.join_rows([hidden_TD[part] for part in self._last])
            self._rows, self._last = self._rows.take(self._last), None
        return self._drafter.scores(hidden_TD), None

    def go_on(self, token_ids_T: Array, parts: Many[slice]) -> None:
        self._rows = self._rows.next(token_ids_T).take(parts)
