"""Steps run before the first request, to learn what steps of different lengths take here.

So the first drafts are priced by measurement, and not by what is assumed of machines.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from time import perf_counter

from scheduler import PASS_SOURCE, FixedPlan, Request, StepCost, StepPlan, StepReport, distinct_by_layer

from .drafting import Draft, Drafter, NoDrafter
from .engine import Engine
from .sampling import Sampler, SamplingParams
from .sequence import Sequence
from .transformer.trunk import Trunk

LENGTHS = (0, 1, 3)  # drafts of the steps, in turn
MOST_MEASURED = 30
LONGEST_S = 1.5  # after which no further turn begins; there is always one

Measured = tuple[Many[float], float]  # parts of a step as they were foretold, and the seconds that they took


@dataclass
class Rehearsal:
    """A policy that drafts as many tokens as it is told, and notes what that took."""

    cost: StepCost
    num_drafts: int = 0
    measured: list[Measured] = field(default_factory=list)

    def begin(self, requests: Many[Request]) -> FixedPlan:
        return FixedPlan([min(self.num_drafts, request.limit) for request in requests])

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        work = report.work()
        distinct_L, uses_L = distinct_by_layer(work.expert_ids)
        parts = self.cost.verify_parts(work.rows, distinct_L, uses_L, work.positions)
        self.measured.append((parts, report.verify_s))
        (verification,) = report.verifications
        if verification.draft.source == PASS_SOURCE and (num := len(verification.draft)):
            self.measured.append((self.cost.draft_parts(num, num, plan.late), report.draft_s))


class AnyTokens(NoDrafter):
    """Wrong drafts, for models without a drafter that costs a pass: what further rows take shows all the same."""

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        return [Draft(list(range(limit)), [0.0] * limit) for limit in plan.limits]


def rehearse(trunk: Trunk, drafter: Drafter | None, cost: StepCost) -> list[Measured]:
    """Runs the steps in the first slot of the caches, from its first position on: nothing of value may lie there."""
    policy = Rehearsal(cost)
    engine = Engine(trunk, drafter or AnyTokens(), policy, chunk_size=1)
    sequence = Sequence(0, [0], trunk.cache.num_positions, Sampler(SamplingParams(temperature=0)), frozenset())
    for num_drafts in (0, max(LENGTHS)):  # the first time is slow
        _step(engine, policy, sequence, num_drafts)
    policy.measured.clear()
    begun = perf_counter()
    while len(policy.measured) < MOST_MEASURED and perf_counter() - begun < LONGEST_S:
        for num_drafts in LENGTHS:
            _step(engine, policy, sequence, num_drafts)
    return policy.measured


def _step(engine: Engine, policy: Rehearsal, sequence: Sequence, num_drafts: int) -> None:
    """One step, from the start again where the cache ends."""
    if sequence.limit - len(sequence.token_ids) <= max(LENGTHS) + 1:
        del sequence.token_ids[1:]
        sequence.num_cached = 0
    policy.num_drafts = num_drafts
    engine.step([sequence])
