"""Drafts by n-grams where the text repeats, with the MTP block elsewhere: the plan compares what each is worth."""

from collections.abc import Sequence as Many

from scheduler import StepPlan

from ..sequence import Sequence
from .mtp import MtpDrafter
from .ngram import NgramDrafter
from .protocol import Draft, Observation


class AutoDrafter:
    """N-grams, which cost nothing to look up, are offered first; what the plan does not take is left to the block."""

    def __init__(self, ngram: NgramDrafter, mtp: MtpDrafter):
        self.ngram, self.mtp = ngram, mtp

    @property
    def bytes_read(self) -> int:
        return self.mtp.bytes_read

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        offers = self.ngram.propose(sequences, plan)
        taken = plan.take(offers)
        drafts = self.mtp.propose(sequences, plan)
        return [offer if take else draft for offer, take, draft in zip(offers, taken, drafts, strict=True)]

    def observe(self, observations: Many[Observation]) -> None:
        self.mtp.observe(observations)
