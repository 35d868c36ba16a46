"""What a drafter is: the contract between the engine and whatever guesses tokens.

A step calls `propose` before the trunk runs and `observe` after it. A drafter may keep state of its own for each
cache slot; it learns of the trunk through `observe` alone. What a slot holds at positions before an observation's
start stays valid: a new sequence that begins like the last one in its slot starts behind the part they share, as far as
the same drafter has seen that. Sequences say how they want to be drafted for (`Sequence.drafting`).
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from scheduler import Draft, StepPlan

from ..backend import Array
from ..sequence import Sequence

__all__ = ["Draft", "Drafter", "NoDrafter", "Observation"]


@dataclass(frozen=True)
class Observation:
    """Rows of a sequence that the trunk has verified and kept, accepted drafts included, rejected ones not.

    Row i stood at position `start + i`; `next_token_ids[i]` is the token that truly follows it.
    """

    sequence: Sequence
    start: int
    next_token_ids: list[int]
    hidden_TD: Array  # the trunk's state of the rows, behind its output norm


class Drafter(Protocol):
    @property
    def bytes_read(self) -> int:
        """Weight bytes that drafting has read since the start."""
        ...

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        """A draft for each sequence, of at most `plan.limits` (0: none is wanted).

        A drafter whose tokens cost something asks `plan.extend` before each of them.
        """
        ...

    def observe(self, observations: Many[Observation]) -> None:
        """Shows what became of the step: of every sequence in it, whether it had a draft or not."""
        ...


class NoDrafter:
    """Plain decoding."""

    bytes_read = 0

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        return [Draft() for _ in sequences]

    def observe(self, observations: Many[Observation]) -> None:
        pass
