"""What a drafter is: the contract between the engine and whatever guesses tokens.

A step calls `propose` before the trunk runs and `observe` after it.

- *State.* A drafter may keep what it likes. If that belongs to cache slots and has to have been shown every token of a
  sequence, it says so (`keeps_slots`): a new sequence that begins like the last one in its slot then starts behind the
  part they share as far as this drafter has seen that, and what it keeps of those positions stays valid. Positions from
  an observation's start on are written anew: whatever it kept of them is wrong.
- *What it is shown.* After each verification the kept rows: their true next tokens, the trunk's state behind its output
  norm, and its states behind the layers that it asked for (`taps`). Rejected drafts are never shown.
- *What it may read.* That, the tokens and the sampling of the sequences (`Sequence`), how they want to be drafted for
  (`Sequence.drafting`), and the plan of the step. Nothing of the trunk's caches.
- *Where it lives.* All that it computes with stands on the trunk's device, and it says by which backend it works
  (`backend`). While it works, the ledger lets nothing cross but tokens: their ids up, and drafts down, once a step
  (`draw_drafts` keeps to that); the guard sees what goes around the ledger. Arrays are used, never kept on the host.
- *What it cannot do* is change the text: a draft that is wrong costs time and nothing else.

tools/eagle_drafter.py is a drafter worked out from nothing; `LanguageModel.generate` takes any object that is one.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from scheduler import NO_DRAFT, Draft, StepPlan

from ..sequence import Sequence
from ..transformer.backend import Array, Backend

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
    tapped: Mapping[int, Array] = field(default_factory=dict)  # layer -> states (T, D) behind it, of the drafter's taps


@runtime_checkable
class Drafter(Protocol):
    """See the head of this file."""

    @property
    def backend(self) -> Backend | None:
        """What it computes by: the trunk's own, or None if it computes nothing."""
        ...

    @property
    def keeps_slots(self) -> bool:
        """Whether it needs to be shown every token of a sequence."""
        ...

    @property
    def taps(self) -> Many[int]:
        """Layers of the trunk behind which it wants to see the states of kept rows."""
        ...

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
        """Shows what became of the step: of every sequence in it that is drafted for, whether it had a draft or not."""
        ...


class NoDrafter:
    """Plain decoding."""

    backend = None
    keeps_slots = False
    taps = ()
    bytes_read = 0

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        return [NO_DRAFT] * len(sequences)

    def observe(self, observations: Many[Observation]) -> None:
        pass
