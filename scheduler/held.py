"""A step that repeats the last decision: to think again would cost more than the policy's share of the time.

How far to draft then rests on what drafts are like on average; how sure the drafter is of single ones is not looked at.
"""

from collections.abc import Sequence
from weakref import ref

import numpy as np

from .calibration import bin_of
from .draft import Draft
from .plan import AutoPlan
from .policy import Request


class Decision:
    """Lengths for the sequences of a step, held until the policy thinks again."""

    def __init__(self, plan: AutoPlan):
        self.plan, self.lengths = plan, plan.mean_lengths()
        self._keys = [ref(request.key) for request in plan.requests]
        plan.requests = [request._replace(key=None) for request in plan.requests]  # what ended is not kept alive
        self._offers: dict[tuple[int, str, int], int] = {}
        self._rows_s = [plan.rows_s(i) for i in range(len(self.lengths))]

    def is_for(self, requests: Sequence[Request]) -> bool:
        if len(requests) != len(self._keys):
            return False
        pairs = zip(requests, self._keys, strict=True)
        return all(request.key is key() and len(request.token_ids) == 1 for request, key in pairs)

    def offer_length(self, i: int, offer: Draft) -> int:
        """How much of a draft that cost nothing to verify; decided once for each confidence."""
        if not len(offer) or self.plan.is_fixed(i):
            return len(offer)
        key = (i, offer.source, bin_of(offer.p[0]))
        if key not in self._offers:
            self._offers[key] = self.plan.offer_length(i, offer)
        return self._offers[key]

    def seconds(self, lengths: Sequence[int], passes: int) -> float:
        """Of a step that verifies drafts of these lengths and made as many passes."""
        rows_s = sum(seconds[min(n, len(seconds) - 1)] for seconds, n in zip(self._rows_s, lengths, strict=True))
        return self.plan.plain_s + rows_s + passes * self.plan.draft_s + (self.plan.start_s if passes else 0.0)


class HeldPlan:
    """
    Args:
        thought: the decision was made for this step.
    """

    def __init__(self, decision: Decision, requests: Sequence[Request], thought: bool):
        self.decision, self.thought = decision, thought
        self.limits = [min(most, request.limit) for most, request in zip(decision.plan.limits, requests, strict=True)]
        self.lengths = list(map(min, decision.lengths, self.limits))
        self.passes = self.drafted_rows = self.late = 0
        self._may_pass = [request.passes for request in requests]
        self._taken = [False] * len(requests)

    def take(self, offers: Sequence[Draft]) -> list[bool]:
        for i, offer in enumerate(offers):
            if length := self.decision.offer_length(i, offer):
                self._taken[i], self.lengths[i] = True, min(length, self.limits[i])
        return self._taken

    def extend(self, drafts: Sequence[Draft]) -> list[bool]:
        wanted = [
            len(draft) < length and may and not taken
            for draft, length, may, taken in zip(drafts, self.lengths, self._may_pass, self._taken, strict=True)
        ]
        self.passes += any(wanted)
        self.drafted_rows += sum(wanted)
        return wanted

    def keep(self, drafts: Sequence[Draft]) -> list[int]:
        return [min(len(draft), length) for draft, length in zip(drafts, self.lengths, strict=True)]

    def cut(self, expert_ids: Sequence[np.ndarray]) -> list[int] | None:
        return None

    def explain(self) -> str:
        plan = self.decision.plan
        terms = f"plain {plan.plain_s * 1e3:.2f} ms, pass {plan.draft_s * 1e3:.2f} ms, price {plan.price:.2f} tokens/s"
        since = "decided" if self.thought else "held"
        return f"{terms}; {since} by what drafts are like on average: {self.lengths}"
