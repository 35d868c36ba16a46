"""Drafts as far as it pays, and not at all where it does not: prices every draft row by the experts that it would load.

What it learns, it learns from the steps themselves: seconds (Correction), sharing of experts (UnionEstimate,
RoutingForecast), acceptance (CalibratedAcceptance), and the rate of the run (Price). Drafts are compared with what was
truly generated whether they were verified or not, so trying out a drafter costs its pass and no verification.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from .batch import RowPrice
from .calibration import CalibratedAcceptance, Counts, SequenceShift
from .correction import Correction
from .cost import DRAFT, EXPERTS, FILL, FIXED, PARTS, REUSE, ROWS, START, StepCost
from .experience import Experience
from .forecast import RoutingForecast
from .held import Decision, HeldPlan
from .plan import PASS_SOURCE, AutoPlan
from .policy import Request, StepPlan, StepReport, Verification, Work
from .price import Price
from .probing import ProbeBudget
from .recency import ExpertRecency
from .reuse import distinct_by_layer
from .thrift import Thrift
from .truncation import Truncation
from .union import UnionEstimate

MOST_DRAFTS = 8  # a step, for each sequence
PROMPT_ROWS = 32  # of each part of a prompt, from which sharing is learned
FEW_ROWS = 8  # where thinking is dear


@dataclass(eq=False)
class SequenceState:
    """What is remembered of a sequence from step to step."""

    recency: ExpertRecency
    unseen: int = 0  # tokens since the last pass of the drafter
    routed_to: int = 0  # position behind the last row whose experts `recency` knows
    routed_rows: int = 0  # and how many rows before it it knows without a gap
    shifts: dict[str, SequenceShift] = field(default_factory=dict)  # by source of drafts

    def shift(self, source: str) -> SequenceShift:
        shift = self.shifts.get(source)
        if shift is None:
            shift = self.shifts[source] = SequenceShift()
        return shift


class AutoPolicy:
    """`--draft auto`.

    Args:
        cost: of the model on this machine.
        num_experts: of a layer.
        num_used: experts per row.
        can_draft: whether there is a drafter that costs a pass (the MTP block).
        most: drafts a step, for each sequence.
        by_routing: price a draft by what its tokens tell of their experts; otherwise by its place in the step alone.
        truncate: drop tails during the verification.
    """

    def __init__(
        self,
        cost: StepCost,
        num_experts: int,
        num_used: int,
        can_draft: bool = True,
        most: int = MOST_DRAFTS,
        by_routing: bool = True,
        truncate: bool = True,
    ):
        num_layers = len(cost.expert_s_L)
        self.cost, self.num_experts, self.num_used = cost, num_experts, num_used
        self.can_draft, self.most, self.by_routing, self.truncate = can_draft, most, by_routing, truncate
        self.correction = Correction()
        self.union = UnionEstimate(num_layers, num_experts, num_used, most)
        self.forecast = RoutingForecast(num_layers, num_used, cost.expert_s_L, most)
        self.truncation = Truncation(self.forecast.weight_L)
        self.acceptance: dict[str, CalibratedAcceptance] = {}
        self.price = Price()
        self.probes = ProbeBudget(cost.plain_s(num_used), cost.draft_s + cost.start_s)
        self.thrift = Thrift()
        self._decision: Decision | None = None  # until the policy thinks again
        self._held: list[Decision] = []  # to be learned from then
        self._last: tuple[HeldPlan, StepReport] | None = None  # of their steps
        self._num_layers = num_layers
        self._used_experts_s = float(cost.expert_s_L.sum()) * num_used
        self._used_reuse_s = float(cost.reuse_s_L.sum()) * num_used
        self._sequences: WeakKeyDictionary[object, SequenceState] = WeakKeyDictionary()

    @property
    def used_share(self) -> float:
        """Experts of a row as a share of all."""
        return self.num_used / self.num_experts

    def begin(self, requests: Sequence[Request]) -> AutoPlan | HeldPlan:
        """A plan of the step's own, or where that would be dear, what was decided before or is to be held from now."""
        thinks, decision = self.thrift.thinks, self._decision
        if not thinks and decision is not None and (plan_again := decision.again(requests)):
            return plan_again
        prompts = any(request.num_rows > 1 for request in requests)
        if not thinks and decision is not None and decision.rests:
            if prompts:
                return AutoPlan(self, requests, thought=False)
            if decision.may_pass_on(requests):
                states = [self.state(request.key) for request in requests]
                return self._hold(decision.passed_on(requests, states)).held(requests)
        if thinks or prompts:
            self._learn_held()
        self._decision, plan = None, AutoPlan(self, requests, thinks)
        if prompts or (thinks and not self.thrift.holds):
            return plan
        decision = Decision(plan, requests)
        if thinks and decision.rests:
            return plan  # it may probe
        return self._hold(decision).held(requests, thinks)

    def _hold(self, decision: Decision) -> Decision:
        """From now on."""
        self._decision = decision
        self._held.append(decision)
        return decision

    def learn_before(self, experience: Experience) -> None:
        """From steps that were run before the first request: what they took, and how good their drafts were."""
        for parts, seconds in experience.measured:
            self.correction.observe(parts, seconds)
        source, shift = self.accepted_of(PASS_SOURCE), SequenceShift()
        for p, num_right in experience.drafts:
            source.observe(p, num_right, shift)
            source.drafted(p)
        self.probes.made_before(len(experience.drafts), self.draft_s() + self.start_s())

    def state(self, key: object) -> SequenceState:
        state = self._sequences.get(key)
        if state is None:
            state = self._sequences[key] = SequenceState(ExpertRecency(self._num_layers, self.num_experts))
        return state

    def accepted_of(self, source: str) -> CalibratedAcceptance:
        acceptance = self.acceptance.get(source)
        if acceptance is None:
            acceptance = self.acceptance[source] = CalibratedAcceptance()
        return acceptance

    def row_price(self) -> RowPrice:
        """Corrected seconds of one more row: its experts loaded, and what they add where they are not."""
        f, cost = self.correction.factors, self.cost
        reuse_s = f[REUSE] * self._used_reuse_s
        return RowPrice(f[ROWS] * cost.row_s + reuse_s, max(0.0, f[EXPERTS] * self._used_experts_s - reuse_s))

    def draft_s(self) -> float:
        """Corrected seconds of a pass of the drafter."""
        return self.correction.factors[DRAFT] * self.cost.draft_s

    def start_s(self) -> float:
        """Corrected seconds of the first pass of a step, beyond those of any pass."""
        return self.correction.factors[START] * self.cost.start_s

    def late_s(self, num_tokens: int) -> float:
        """Corrected seconds of showing the drafter tokens that it has not seen yet."""
        return self.correction.factors[FILL] * self.cost.fill_row_s * num_tokens

    def plain_s(self, rows: int, loaded: float, positions: int) -> float:
        """Corrected seconds of a step without drafts.

        Args:
            rows: of all sequences.
            loaded: experts that a layer loads, as a share of all.
            positions: cached positions that the rows read, summed over the rows.
        """
        f, cost = self.correction.factors, self.cost
        distinct = loaded / self.used_share  # in rows' worth of experts
        experts_s = f[EXPERTS] * self._used_experts_s * distinct + f[REUSE] * self._used_reuse_s * (rows - distinct)
        fixed_s = f[FIXED] * (cost.fixed_s + cost.position_s * positions)
        return fixed_s + f[ROWS] * cost.row_s * (rows - 1) + experts_s

    def mean_shares(self) -> list[float]:
        """Share of new experts of the first, second, ... draft row, averaged over the layers."""
        weight_L = self.forecast.weight_L
        return [float(x) for x in weight_L @ self.union.new_LM]

    def report(self) -> dict[str, object]:
        """What was learned, for a person.

        Calibration: (mean confidence, mean chance foretold, share accepted, drafts) of each bin of confidence. New
        experts: shares of the 1st, 2nd, ... draft row. Errors are roots of mean squares, of what was foretold before
        it was seen and of the running means alone.
        """
        return {
            "speedup": self.price.speedup,
            "policy_share": self.thrift.share,
            "factors": dict(zip(PARTS, self.correction.factors, strict=True)),
            "new_experts": self.mean_shares(),
            "forecast_errors": (self.forecast.regression.error, self.forecast.regression.error_without),
            "truncation_errors": self.truncation.errors(),
            "calibration": {source: known.curve() for source, known in self.acceptance.items()},
        }

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        if isinstance(plan, HeldPlan):
            plan.decision.observe(plan, report.verifications)
            self._last, rested = (plan, report), not plan.drafts
        else:
            assert isinstance(plan, AutoPlan)
            self._learn(plan, report)
            rested = not plan.passes and not any(v.draft for v in report.verifications)
        self.thrift.observe(report.policy_s, report.draft_s + report.verify_s, plan.thought, rested)

    def _learn(self, plan: AutoPlan, report: StepReport) -> None:
        work = report.work() if plan.thought else None
        if work and all(request.num_rows == 1 for request in plan.requests):  # prompts are bound by arithmetic
            seconds = self._learn_seconds(plan, report, work)
            self.price.observe(plan.tokens(), seconds * plan.plain_tokens / plan.plain_s)
            self.probes.earn(seconds, self._probe_s(plan.states))
            lost = sum(plan.lost(i, v.new_token_ids) for i, v in enumerate(report.verifications))
            self.truncation.book(plan.plain_tokens, plan.saved, lost)
        for i, v in enumerate(report.verifications):
            self._learn_acceptance(plan, i, v)
            if work and work.kept_LTK[i].size:
                self._learn_routing(plan, i, v, work.kept_LTK[i])

    def _learn_seconds(self, plan: AutoPlan | HeldPlan, report: StepReport, work: Work) -> float:
        """From what a step took; returns what it should have taken."""
        distinct_L, uses_L = distinct_by_layer(work.expert_ids)
        parts = self.cost.verify_parts(work.rows, distinct_L, uses_L, work.positions)
        draft_parts = self.cost.draft_parts(plan.passes, plan.drafted_rows, plan.late)
        self.correction.observe(parts, report.verify_s)
        if plan.passes:
            self.correction.observe(draft_parts, report.draft_s)
        return self.correction.seconds(parts) + self.correction.seconds(draft_parts)

    def _learn_held(self) -> None:
        """What held steps brought: their drafts by position and confidence, and the seconds of the last."""
        for decision in self._held:
            self._learn_decision(decision)
        if self._last is not None:
            plan, report = self._last
            self._learn_seconds(plan, report, report.work())
        self._held, self._last = [], None

    def _learn_decision(self, decision: Decision) -> None:
        plan, steps = decision.plan, decision.plain_steps
        counts: dict[tuple[SequenceState, str], Counts] = {}
        tokens, all_s = float(steps * plan.plain_tokens), steps * plan.plain_s
        for state in decision.states:
            state.unseen += steps
        for held, verifications in decision.drafted:
            lengths = []
            for state, v in zip(decision.states, verifications, strict=True):
                num, draft = len(v.new_token_ids), v.draft
                lengths.append(len(draft))
                tokens += num
                if len(draft):
                    counts.setdefault((state, draft.source), Counts()).observe(draft.p, num - 1)
                state.unseen = 0 if len(draft) and draft.source == PASS_SOURCE else state.unseen + num
            all_s += decision.seconds(lengths, held.passes)
        self.price.observe(tokens, all_s * plan.plain_tokens / plan.plain_s, steps + len(decision.drafted))
        for (state, source), seen in counts.items():
            self.accepted_of(source).observe_counts(seen, state.shift(source))
        self.probes.earn(all_s, self._probe_s(decision.states))

    def _probe_s(self, states: Sequence[SequenceState]) -> float:
        """Seconds of one pass."""
        unseen = sum(state.unseen for state in states)
        return self.draft_s() + self.start_s() + self.late_s(unseen)

    def _learn_acceptance(self, plan: AutoPlan, i: int, v: Verification) -> None:
        """Every guess about tokens that are known by now counts, verified or not."""
        if not v.new_token_ids:
            return
        state = plan.states[i]
        seen = any(draft.source == PASS_SOURCE for draft in plan.guesses[i])
        state.unseen = 0 if seen else state.unseen + len(v.new_token_ids)
        for draft in plan.guesses[i]:
            known = min(len(draft), len(v.new_token_ids))
            right = 0
            while right < known and draft.token_ids[right] == v.new_token_ids[right]:
                right += 1
            source = self.accepted_of(draft.source)
            source.observe(draft.p[:known], right, state.shift(draft.source))
            source.drafted(draft.p)

    def _learn_routing(self, plan: AutoPlan, i: int, v: Verification, ids_LTK: np.ndarray) -> None:
        """What the rows would have shared in steps of any length, and what the draft rows did share."""
        request = plan.requests[i]
        state, num_rows = plan.states[i], request.num_rows
        kept = num_rows + max(0, len(v.new_token_ids) - 1)
        most_rows = FEW_ROWS if self.thrift.holds else PROMPT_ROWS
        first, recency, found = max(0, num_rows - most_rows), state.recency, []
        before = state.routed_rows if state.routed_to == request.position + first else 0
        state.routed_to, state.routed_rows = request.position + kept, before + kept - first
        for t in range(first, min(ids_LTK.shape[1], num_rows + self.most)):
            ids_LK, position = ids_LTK[:, t], request.position + t
            if t == kept:
                recency = recency.copy()  # what rejected rows used is no use of the sequence
            new_LM = recency.new_shares(ids_LK, position, self.most)[:, : before + t - first]
            recency.use(ids_LK, position)
            if t >= num_rows:
                new_L = new_LM[:, t - 1]
                found.append(self.forecast.weighted(new_L))
                draft = t - num_rows
                self.truncation.learn(new_L - self.union.new_LM[:, draft] - plan.surplus[i][draft])
            if t < kept:
                token_id = request.token_ids[t] if t < num_rows else v.draft.token_ids[t - num_rows]
                self.forecast.tokens.store(token_id, ids_LK)
            self.union.observe(new_LM if t < kept else new_LM[:, :t])
        if found:
            self.forecast.observe(plan.mean_shares(), plan.signs[i], found)
