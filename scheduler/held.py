"""A step that repeats the last decision: to think again would cost more than the policy's share of the time.

How far to draft then rests on what drafts are like on average; how sure the drafter is of single ones is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np

from .calibration import bin_of
from .draft import NO_DRAFT, Draft
from .plan import AutoPlan
from .policy import Request, Verification

if TYPE_CHECKING:
    from .auto import SequenceState


class Decision:
    """Lengths for the sequences of a step, held until the policy thinks again; and what came of it."""

    def __init__(self, plan: AutoPlan, requests: Sequence[Request]):
        self.plan, self.lengths, self.states = plan, plan.mean_lengths(), plan.states
        self.rests, self.most = not any(self.lengths), plan.policy.most
        self.drafted: list[tuple[HeldPlan, Sequence[Verification]]] = []  # steps with drafts
        self.plain_steps = 0  # those without
        self._keys = [ref(request.key) for request in requests]
        self.may_pass = [request.passes for request in requests]
        self._resting: HeldPlan | None = None
        self._offers: dict[tuple[int, str, int], int] = {}
        self._rows_s = [plan.rows_s(i) for i in range(len(self.lengths))]

    def again(self, requests: Sequence[Request]) -> HeldPlan | None:
        """The plan of another step; None if that is one of other sequences."""
        if len(requests) != len(self._keys):
            return None
        shorter = False
        for request, key, limit in zip(requests, self._keys, self.plan.limits, strict=True):
            if request.key is not key() or len(request.token_ids) != 1:
                return None
            shorter |= request.limit < limit
        resting = self._resting
        return self.held(requests) if shorter or resting is None or resting.drafts else resting

    def may_pass_on(self, requests: Sequence[Request]) -> bool:
        """Whether other sequences in the place of these may rest as well: that nothing is drafted rests on no text."""
        if not self.rests or len(requests) != len(self._keys):
            return False
        for request, passes, limit in zip(requests, self.may_pass, self.plan.limits, strict=True):
            if request.length is not None or request.passes != passes or limit < min(request.limit, self.most):
                return False
        return True

    def passed_on(self, requests: Sequence[Request], states: list[SequenceState]) -> Decision:
        """The same decision for other sequences."""
        decision = copy(self)
        decision.states, decision._keys = states, [ref(request.key) for request in requests]
        decision.drafted, decision.plain_steps, decision._resting = [], 0, None
        return decision

    def held(self, requests: Sequence[Request], thought: bool = False) -> HeldPlan:
        """The plan of a step; the same again while nothing is drafted."""
        most = self.plan.limits
        limits = [min(request.limit, limit) for request, limit in zip(requests, most, strict=True)]
        if thought or not self.rests or limits != most:
            return HeldPlan(self, limits, thought)
        if self._resting is None or self._resting.drafts:
            self._resting = HeldPlan(self, limits, thought)
        return self._resting

    def observe(self, plan: HeldPlan, verifications: Sequence[Verification]) -> None:
        if plan.drafts:
            self.drafted.append((plan, verifications))
        else:
            self.plain_steps += 1

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
        limits: the most drafts of each sequence.
        thought: the decision was made for this step.
    """

    may_cut = False

    def __init__(self, decision: Decision, limits: list[int], thought: bool):
        self.decision, self.limits, self.thought = decision, limits, thought
        self.lengths = list(map(min, decision.lengths, limits))
        self.passes = self.drafted_rows = self.late = 0
        self.drafts = False  # whether anything was
        self._taken = [False] * len(limits)

    def take(self, offers: Sequence[Draft]) -> list[bool]:
        for i, offer in enumerate(offers):
            if offer is not NO_DRAFT and (length := self.decision.offer_length(i, offer)):
                self._taken[i], self.lengths[i] = True, min(length, self.limits[i])
                self.drafts = True
        return self._taken

    def extend(self, drafts: Sequence[Draft]) -> list[bool]:
        if self.decision.rests:
            return [False] * len(drafts)
        wanted = [
            len(draft) < length and may and not taken
            for draft, length, may, taken in zip(drafts, self.lengths, self.decision.may_pass, self._taken, strict=True)
        ]
        self.passes += any(wanted)
        self.drafted_rows += sum(wanted)
        self.drafts |= any(wanted)
        return wanted

    def keep(self, drafts: Sequence[Draft]) -> list[int]:
        if not self.drafts:
            return [0] * len(drafts)
        return [min(len(draft), length) for draft, length in zip(drafts, self.lengths, strict=True)]

    def cut(self, expert_ids: Sequence[np.ndarray]) -> list[int] | None:
        return None

    def explain(self) -> str:
        plan = self.decision.plan
        terms = f"plain {plan.plain_s * 1e3:.2f} ms, pass {plan.draft_s * 1e3:.2f} ms, price {plan.price:.2f} tokens/s"
        since = "decided" if self.thought else "held"
        return f"{terms}; {since} by what drafts are like on average: {self.lengths}"
