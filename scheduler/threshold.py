"""Drafts while the drafter is sure of itself: what llama.cpp does, as a policy to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from .draft import Draft
from .policy import FixedPlan, Request, StepPlan, StepReport


@dataclass
class _ThresholdPlan(FixedPlan):
    least_p: float

    def extend(self, drafts: Sequence[Draft]) -> list[bool]:
        return [
            more and all(p >= self.least_p for p in draft.p)
            for more, draft in zip(super().extend(drafts), drafts, strict=True)
        ]

    def keep(self, drafts: Sequence[Draft]) -> list[int]:
        """The first token below the threshold is thrown away, with those behind it."""
        return [sum(1 for _ in takewhile(lambda p: p >= self.least_p, draft.p)) for draft in drafts]


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Up to `most` drafts, ending before the first whose confidence is below `least_p`.

    Source: `--spec-draft-n-max` and `--spec-draft-p-min` of llama.cpp.
    """

    most: int
    least_p: float

    def begin(self, requests: Sequence[Request]) -> _ThresholdPlan:
        return _ThresholdPlan([min(self.most, request.limit) for request in requests], self.least_p)

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        pass
