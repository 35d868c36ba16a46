"""Draft lengths as each request wants them, in one batch: fixed ones, and as far as it pays."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .auto import AutoPolicy
from .plan import AutoPlan
from .policy import FixedPlan, Request, StepPlan, StepReport


@dataclass
class Rest(FixedPlan):
    """A step that `auto` sits out: it drafts what was asked for, and nothing of its own."""

    requests: Sequence[Request] = field(default=(), kw_only=True)

    def explain(self) -> str:
        return "sat out: no draft paid lately, and to think again would cost more than its share"


class PerRequest:
    """Steps in which every length is fixed are neither priced nor learned from: they cost what they cost."""

    def __init__(self, auto: AutoPolicy):
        self.auto = auto

    def begin(self, requests: Sequence[Request]) -> StepPlan:
        limits = [min(request.limit, request.length or 0) for request in requests]
        passes = [request.passes for request in requests]
        if all(request.length is not None for request in requests):
            return FixedPlan(limits, passes=passes)
        if self.auto.thrift.rests and all(request.num_rows == 1 for request in requests):
            return Rest(limits, passes=passes, requests=requests)
        return self.auto.begin(requests)

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        match plan:
            case AutoPlan():
                self.auto.observe(plan, report)
            case Rest():
                self.auto.observe_rest(plan.requests, report)
