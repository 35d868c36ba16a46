"""Cache slots: which sequence stands in which, and how much of it a new one can go on from.

A slot that was left keeps what it holds. A prompt that begins like the last sequence of a slot starts behind the part
they share: keys and values of a position depend on the tokens up to it alone, so they are what they would be computed
anew, to the bit. The drafter pairs each row with the token behind it, so the last shared token's row is computed again.

A drafter keeps a state of its own for each slot (`keeper`, the MTP block's cache). It goes on from there only as far as
it was shown: not through a sequence that ran without it.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

from .sequence import Sequence

ENOUGH = 0.1  # share of a prompt that a slot must hold to be chosen for it, before the one that was left longest ago


@dataclass
class Slot:
    index: int
    sequence: Sequence | None = None  # the last one
    is_busy: bool = False
    used: int = 0  # when it was last taken or left
    keeper: object | None = None  # whose state for this slot is right for the first positions
    _kept: int = 0  # so many of them, unless the keeper sees the sequence itself
    _sees: bool = False

    @property
    def num_cached(self) -> int:
        return self.sequence.num_cached if self.sequence else 0

    def reusable(self, token_ids: Many[int], keeper: object | None) -> int:
        """Positions that a sequence of these tokens need not compute again."""
        if self.sequence is None:
            return 0
        most = min(_shared(self.sequence.token_ids, token_ids) - 1, self.num_cached)
        if keeper is not None:
            most = min(most, self._num_kept() if keeper is self.keeper else 0)
        return max(0, most)

    def take(self, sequence: Sequence, keeper: object | None) -> None:
        """Puts the sequence here, behind what it can reuse."""
        start = self.reusable(sequence.token_ids, keeper)
        self._kept = min(self._num_kept(), start)
        self._sees = keeper is not None
        if keeper is not None:
            self.keeper = keeper
        self.sequence, self.is_busy = sequence, True
        sequence.slot, sequence.num_cached = self.index, start

    def _num_kept(self) -> int:
        return self.num_cached if self._sees else self._kept


class Slots:
    """All slots of a model's caches."""

    def __init__(self, num_slots: int):
        self._slots = [Slot(i) for i in range(num_slots)]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    @property
    def num_free(self) -> int:
        return sum(not slot.is_busy for slot in self._slots)

    def take(self, sequence: Sequence, keeper: object | None) -> Slot:
        """Puts a sequence where most of it stands already, or else where nobody was for longest.

        A free slot if there is one. Otherwise the sequence that went without a step for longest loses its slot.

        Args:
            keeper: the drafter that will see it and needs to have seen all of it; None if there is no such drafter.
        """
        free = [slot for slot in self._slots if not slot.is_busy] or self._slots
        oldest = min(free, key=lambda slot: slot.used)
        longest = max(free, key=lambda slot: (slot.reusable(sequence.token_ids, keeper), -slot.used))
        enough = longest.reusable(sequence.token_ids, keeper) >= ENOUGH * len(sequence.token_ids)
        slot = longest if enough else oldest
        slot.take(sequence, keeper)
        slot.used = self._tick()
        return slot

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended; its slot keeps what it holds until another one takes it."""
        if self.holds(sequence):
            slot = self._slots[sequence.slot]
            slot.is_busy, slot.used = False, self._tick()

    def holds(self, sequence: Sequence) -> bool:
        """Whether the sequence still has its slot."""
        return self._slots[sequence.slot].sequence is sequence

    def forget(self, index: int | None = None) -> None:
        """What a slot holds (all of them if None) is not to be gone on from."""
        for slot in self._slots if index is None else [self._slots[index]]:
            self._slots[slot.index] = Slot(slot.index, used=slot.used)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _shared(a: Many[int], b: Many[int]) -> int:
    """Tokens at the beginning that are the same."""
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared
