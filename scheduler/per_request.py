"""Draft lengths as each request wants them, in one batch: fixed ones, and as far as it pays."""

from collections.abc import Sequence

from .auto import AutoPolicy
from .policy import FixedPlan, Request, StepPlan, StepReport


class PerRequest:
    """Steps in which every length is fixed are neither priced nor learned from: they cost what they cost."""

    def __init__(self, auto: AutoPolicy):
        self.auto = auto

    def begin(self, requests: Sequence[Request]) -> StepPlan:
        for request in requests:
            if request.length is None:
                return self.auto.begin(requests)
        limits = [min(request.limit, request.length or 0) for request in requests]
        return FixedPlan(limits, passes=[request.passes for request in requests])

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        if not isinstance(plan, FixedPlan):
            self.auto.observe(plan, report)
