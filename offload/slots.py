"""Cache slots: which sequence stands in which, and how much of it a new one can go on from.

A slot that was left keeps what it holds. A prompt that begins like the last sequence of a slot starts behind the part
they share: keys and values of a position depend on the tokens up to it alone, so they are what they would be computed
anew, to the bit. The drafter pairs each row with the token behind it, so the last shared token's row is computed again.
What stands in another slot, left or busy, is copied from there.

A drafter keeps a state of its own for each slot (`keeper`, the MTP block's cache). It goes on from there only as far as
it was shown: not through a sequence that ran without it.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from threading import RLock

from .sequence import Sequence

MOST_LOST = 0.5  # of what a slot holds, where another sequence goes on from its beginning; more is kept for later
LEAST_COPIED = 16  # positions, if not all that a prompt lacks: fewer are not worth the trouble


@dataclass
class Slot:
    """One place of the caches: the sequence that stands there, or what the last one has left."""

    index: int
    sequence: Sequence | None = None  # that stands here now
    used: int = 0  # when it was last taken or left
    keeper: object | None = None  # whose state for this slot is right for the first positions
    _left_token_ids: list[int] = field(default_factory=list)  # of the last sequence
    _left_cached: int = 0  # how many of them have their keys and values here
    _kept: int = 0  # positions that the keeper was shown, unless it sees the sequence itself
    _sees: bool = False

    @property
    def is_busy(self) -> bool:
        return self.sequence is not None

    @property
    def token_ids(self) -> list[int]:
        """Of what stands here; the first `num_cached` of them have their keys and values."""
        return self.sequence.token_ids if self.sequence else self._left_token_ids

    @property
    def num_cached(self) -> int:
        return self.sequence.num_cached if self.sequence else self._left_cached

    def reusable(self, token_ids: Many[int], keeper: object | None) -> int:
        """Positions that a sequence of these tokens need not compute again."""
        most = min(_shared(self.token_ids, token_ids) - 1, self.num_cached)
        if keeper is not None:
            most = min(most, self._num_kept() if keeper is self.keeper else 0)
        return max(0, most)

    def take(self, sequence: Sequence, start: int, keeper: object | None) -> None:
        """Puts the sequence here, behind the `start` positions that it reuses."""
        self._kept = min(self._num_kept(), start)
        self._sees = keeper is not None
        if keeper is not None:
            self.keeper = keeper
        self.sequence, sequence.slot, sequence.num_cached = sequence, self.index, start

    def leave(self) -> None:
        """The sequence has ended: of it stays what the caches hold, and nothing that others remember of it."""
        if self.sequence:
            self._left_token_ids, self._left_cached = self.sequence.token_ids, self.sequence.num_cached
            self.sequence = None

    def _num_kept(self) -> int:
        return self.num_cached if self._sees else self._kept


class Slots:
    """All slots of a model's caches.

    Attributes:
        turn: held by the thread that works with them, from the look at who stands where to the end of the step.
    """

    def __init__(self, num_slots: int):
        self.turn = RLock()
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
        """Puts a sequence behind what stands of it already, or else where nobody was for longest.

        A free slot if there is one. Otherwise the sequence that was begun first loses its slot.

        Args:
            keeper: the drafter that will see it and needs to have seen all of it; None if there is no such drafter.
        """
        free = [slot for slot in self._slots if not slot.is_busy] or self._slots
        oldest_first = sorted(free, key=lambda slot: slot.used)
        reusable = [slot.reusable(sequence.token_ids, keeper) for slot in oldest_first]
        best = reusable.index(max(reusable))
        if reusable[best] < (1 - MOST_LOST) * oldest_first[best].num_cached:
            best = 0
        slot = oldest_first[best]
        slot.take(sequence, reusable[best], keeper)
        slot.used = self._tick()
        return slot

    def better(self, sequence: Sequence, keeper: object | None) -> tuple[int, int]:
        """Another slot that holds more of a prompt that is being read, and how many positions of it (0: none)."""
        start = sequence.num_cached
        wanted = sequence.token_ids[start : start + LEAST_COPIED]
        least, found = start + min(LEAST_COPIED, len(wanted) - 1), (sequence.slot, 0)
        for slot in self._slots:
            if slot.index != sequence.slot and slot.token_ids[start : start + len(wanted)] == wanted:
                most = slot.reusable(sequence.token_ids, keeper)
                if most >= max(least, start + 1, found[1] + 1):
                    found = slot.index, most
        return found

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended; its slot keeps what it holds until another one takes it."""
        if self.holds(sequence):
            slot = self._slots[sequence.slot]
            slot.leave()
            slot.used = self._tick()

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
