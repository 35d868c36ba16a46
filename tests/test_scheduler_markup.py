"""Where decisions are held, drafts have to pay by the seconds of whole steps, not by those of their parts alone."""

import numpy as np
import pytest

from scheduler import NO_DRAFT, AutoPolicy, Draft, Request, StepCost, StepReport, Verification, Work
from scheduler.markup import DRAFT_MEMORY, FORGOTTEN, LONGEST, PRIOR, Markup

L, E, K = 4, 16, 4
COST = StepCost(
    fixed_s=300e-6,
    row_s=20e-6,
    expert_s_L=np.full(L, 10e-6),
    reuse_s_L=np.full(L, 2e-6),
    draft_s=60e-6,
    draft_row_s=10e-6,
    fill_row_s=5e-6,
    start_s=20e-6,
)


def test_it_is_what_drafts_added_by_what_they_were_to_add() -> None:
    markup = Markup()
    assert markup.value == 1
    markup.observe_plain(100, 100.0, 200.0)  # the machine is half as fast as foretold
    for _ in range(1000):
        markup.observe_drafts(1.0, 1.5, 2.0 + 0.75)
    assert markup.value == pytest.approx((1.5 * DRAFT_MEMORY + PRIOR) / (DRAFT_MEMORY + PRIOR))


def test_it_is_at_least_one_and_hardly_moved_by_one_step() -> None:
    markup = Markup()
    markup.observe_plain(100, 100.0, 100.0)
    markup.observe_drafts(1.0, 1.5, 0.1)
    assert markup.value == 1
    for _ in range(64):
        markup.observe_drafts(1.0, 1.5, 1.5)
    before = markup.value
    markup.observe_drafts(1.0, 1.5, 1e9)
    assert before < markup.value < before + LONGEST * 1.5 / (0.5 * 32)


def test_it_is_forgotten_where_nothing_is_drafted() -> None:
    markup = Markup()
    for _ in range(100):
        markup.observe_drafts(1.0, 1.5, 3.0)
    dear = markup.value
    markup.observe_plain(round(5 / FORGOTTEN), 1.0, 1.0)
    assert 1 <= markup.value < 1 + 0.1 * (dear - 1)


class Key:
    pass


def tokens_per_s(policy: AutoPolicy, chance: float, stall_s: float, steps: int = 4000) -> tuple[float, float]:
    """A text whose drafts are right by `chance`, on a machine that every tenth step with drafts holds up.

    Returns:
        By the policy, and without drafts.
    """
    rng, key, tokens, seconds = np.random.default_rng(0), Key(), 0, 0.0
    for step in range(steps):
        plan = policy.begin([Request(key, 20, [1], 10)])
        draft = Draft(source="mtp")
        while plan.extend([draft])[0]:
            draft.token_ids.append(5)
            draft.p.append(0.8)
        (length,) = plan.keep([draft])
        accepted = int((rng.random(length) < chance).cumprod().sum())
        rows, draft = 1 + length, draft.first(length)
        ids = [rng.permutation(E)[None, :K].repeat(rows, axis=0).astype(np.int32) for _ in range(L)]
        work = Work(ids, [np.stack(ids)], rows, 10 * rows)
        distinct_L = np.full(L, float(K))
        verify_s = COST.verify_s(rows, distinct_L, distinct_L * rows, 0) + stall_s * (length > 0 and step % 10 == 0)
        drafted = len(draft)
        draft_s = sum(COST.draft_parts(drafted, drafted))
        verification = Verification(draft if length else NO_DRAFT, [5] * (accepted + 1))
        policy.observe(plan, StepReport([verification], lambda work=work: work, draft_s, verify_s, 50e-6))
        if step >= steps // 4:
            tokens, seconds = tokens + accepted + 1, seconds + draft_s + verify_s
    return tokens / seconds, 1 / COST.plain_s(K)


def test_drafts_that_pay_are_made() -> None:
    ours, plain = tokens_per_s(AutoPolicy(COST, E, K), chance=0.8, stall_s=0.0)
    assert ours > 1.3 * plain


def test_drafts_are_left_where_now_and_then_they_take_very_long() -> None:
    """Each step alone looks as if it paid: the one in ten that is held up is no sign of what a step takes."""
    ours, plain = tokens_per_s(AutoPolicy(COST, E, K), chance=0.8, stall_s=8e-3)
    assert ours > 0.97 * plain
    unguarded = AutoPolicy(COST, E, K)
    unguarded.markup = NoMarkup()
    ours, plain = tokens_per_s(unguarded, chance=0.8, stall_s=8e-3)
    assert ours < 0.95 * plain, "without the markup they would have been made"


class NoMarkup(Markup):
    value = 1.0  # type: ignore[assignment]
