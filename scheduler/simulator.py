"""Replays traces through a policy, for a machine of given costs: the classes are those that run the real thing.

Shapes: T rows of a step, L layers with experts, K experts per row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .acceptance import AcceptanceCounter
from .cost import StepCost
from .draft import Draft
from .plan import PASS_SOURCE
from .policy import DraftPolicy, Request, StepReport, Verification, Work
from .reuse import distinct_by_layer
from .trace import Trace

Offer = Callable[[list[int], int], Draft]  # the tokens so far and the most drafts: a guess that costs nothing


@dataclass(eq=False)
class _Reader:
    """A sequence that follows a trace: rows up to `row` are done."""

    trace: Trace
    row: int = 0

    @property
    def done(self) -> bool:
        return self.row >= self.trace.num_tokens - 1


@dataclass
class Simulation:
    """What a run gave."""

    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    cut_rows: int = 0  # rows dropped during a verification
    acceptance: AcceptanceCounter = field(default_factory=AcceptanceCounter)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def simulate(
    traces: Sequence[Trace],
    policy: DraftPolicy,
    cost: StepCost,
    noise: float = 0.0,
    offer: Offer | None = None,
) -> Simulation:
    """Runs the traces side by side, as sequences of one batch, to their ends.

    Args:
        cost: the machine's true costs.
        noise: standard deviation of what the policy is told of a step's seconds, as a share; the result is not noisy.
        offer: guesses that cost no pass, offered before each pass is paid.
    """
    rng, run = np.random.default_rng(0), Simulation()
    readers = [_Reader(trace) for trace in traces]
    while running := [reader for reader in readers if not reader.done]:
        _step(running, policy, cost, run, noise * rng.standard_normal(2), offer)
    return run


def _step(
    readers: list[_Reader],
    policy: DraftPolicy,
    cost: StepCost,
    run: Simulation,
    noise: np.ndarray,
    offer: Offer | None,
) -> None:
    requests = [
        Request(r, min(r.trace.num_tokens - r.row - 2, r.trace.num_drafts), [int(r.trace.token_ids_N[r.row])], r.row)
        for r in readers
    ]
    plan = policy.begin(requests)
    drafts = [Draft(source=PASS_SOURCE) for _ in readers]
    passes = guesses = 0
    taken = [False] * len(readers)
    if offer is not None:
        offers = [
            offer(r.trace.token_ids_N[: r.row + 1].tolist(), limit)
            for r, limit in zip(readers, plan.limits, strict=True)
        ]
        taken = plan.take(offers)
        drafts = [o if take else draft for o, take, draft in zip(offers, taken, drafts, strict=True)]
    while any(more := [m and not t for m, t in zip(plan.extend(drafts), taken, strict=True)]):
        passes, guesses = passes + 1, guesses + sum(more)
        drafts = [_longer(r, len(d) + 1) if extend else d for r, d, extend in zip(readers, drafts, more, strict=True)]
    lengths = plan.keep(drafts)
    drafts = [draft.first(length) for draft, length in zip(drafts, lengths, strict=True)]
    ids_LTK, left, expert_ids, cut_rows = _verify(readers, drafts, plan.cut)
    run.cut_rows += cut_rows
    drafts = [draft.first(length) for draft, length in zip(drafts, left, strict=True)]

    distinct_L, uses_L = distinct_by_layer(expert_ids)
    rows = float(np.mean([len(ids) for ids in expert_ids])) if expert_ids else len(readers) + sum(left)
    positions = sum((r.row + 1) * (1 + len(d)) for r, d in zip(readers, drafts, strict=True))
    verify_s = cost.verify_s(rows, distinct_L, uses_L, positions)
    draft_s = sum(cost.draft_parts(passes, guesses))
    verifications, kept_LTK, start = [], list[np.ndarray](), 0
    for r, draft in zip(readers, drafts, strict=True):
        end = start + 1 + len(draft)
        following = r.trace.token_ids_N[r.row + 1 :].tolist()
        right = 0
        while right < len(draft) and draft.token_ids[right] == following[right]:
            right += 1
        new = following[: right + 1]
        verifications.append(Verification(draft, new))
        kept_LTK.append(ids_LTK[:, start:end])
        run.acceptance.observe(len(draft), right)
        run.tokens += len(new)
        r.row += len(new)
        start = end
    run.seconds += verify_s + draft_s
    run.steps += 1
    told = [draft_s * (1 + noise[0]), verify_s * (1 + noise[1])]
    policy.observe(plan, StepReport(verifications, lambda: Work(expert_ids, kept_LTK, rows, positions), *told))


def _longer(reader: _Reader, length: int) -> Draft:
    trace, n = reader.trace, reader.row
    return Draft(
        trace.draft_ids_NM[n, :length].tolist(),
        trace.draft_p_NM[n, :length].tolist(),
        PASS_SOURCE,
        list(trace.mtp_expert_ids_NMK[n, :length]),
    )


def _row_experts(reader: _Reader, draft: Draft) -> np.ndarray:
    """Experts (T, L, K) of the reader's row and its draft's."""
    trace, n = reader.trace, reader.row
    if draft.source == PASS_SOURCE:
        drafted = trace.draft_expert_ids_NMLK[n, : len(draft)]
    else:  # a right guess is a row of the text; for a wrong one the text's row stands in
        drafted = trace.expert_ids_NLK[n + 1 : n + 1 + len(draft)]
    return np.concatenate([trace.expert_ids_NLK[n : n + 1], drafted])


def _verify(
    readers: list[_Reader], drafts: list[Draft], cut: Callable[[Sequence[np.ndarray]], list[int] | None]
) -> tuple[np.ndarray, list[int], list[np.ndarray], int]:
    """Layer by layer, as the trunk does it.

    Returns:
        Experts (L, T, K) of the rows that are left at the end, the lengths that are left, the experts (T, K) that
        each layer truly computed, and how many rows were dropped.
    """
    ids_LTK = np.concatenate([_row_experts(r, d) for r, d in zip(readers, drafts, strict=True)]).transpose(1, 0, 2)
    lengths, rows, routed, computed = [len(d) for d in drafts], np.arange(ids_LTK.shape[1]), [], []
    dropped = 0
    for ids_TK in ids_LTK:
        routed.append(ids_TK[rows])
        left = cut(routed)
        if left is not None:
            keep = np.concatenate([np.arange(1 + n) < 1 + m for n, m in zip(lengths, left, strict=True)])
            dropped += int((~keep).sum())
            rows, lengths = rows[keep], left
            routed = [ids[keep] for ids in routed]
        computed.append(ids_TK[rows])
    return ids_LTK[:, rows], lengths, computed, dropped
