"""Drafts by n-grams where the text repeats, with a drafter that computes elsewhere: the plan compares their worth."""

from collections.abc import Sequence as Many

from scheduler import NO_DRAFT, StepPlan

from ..sequence import Sequence
from ..transformer.backend import Backend
from .ngram import NgramDrafter
from .protocol import Draft, Drafter, Observation


class AutoDrafter:
    """N-grams, which cost nothing to look up, are offered first; what the plan does not take is left to the other."""

    def __init__(self, ngram: NgramDrafter, passes: Drafter):
        self.ngram, self.passes = ngram, passes

    @property
    def backend(self) -> Backend | None:
        return self.passes.backend

    @property
    def keeps_slots(self) -> bool:
        return self.passes.keeps_slots

    @property
    def taps(self) -> Many[int]:
        return self.passes.taps

    @property
    def bytes_read(self) -> int:
        return self.passes.bytes_read

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        offers = self.ngram.propose(sequences, plan)
        if all(offer is NO_DRAFT for offer in offers):
            return self.passes.propose(sequences, plan)
        taken = plan.take(offers)
        drafts = self.passes.propose(sequences, plan)
        if not any(taken):
            return drafts
        return [offer if take else draft for offer, take, draft in zip(offers, taken, drafts, strict=True)]

    def observe(self, observations: Many[Observation]) -> None:
        self.passes.observe(observations)
