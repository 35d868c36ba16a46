"""Calibrated acceptance against simulated drafters of known truth; the budget for probes."""

import math

import numpy as np
import pytest

from scheduler.calibration import CalibratedAcceptance, SequenceShift
from scheduler.probing import SHARE, START_PROBES, ProbeBudget
from scheduler.thrift import Thrift


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def true_chance(position: int, p: float) -> float:
    """A drafter that is too sure of itself, and worse at later positions."""
    return logistic(0.3 + 0.6 * math.log(p / (1 - p)) - 0.5 * position)


def run(acceptance: CalibratedAcceptance, rng: np.random.Generator, num: int, harder: float = 0.0) -> SequenceShift:
    """One sequence of `num` drafts of three tokens, `harder` in log-odds than the others."""
    shift = SequenceShift()
    for _ in range(num):
        p = rng.beta(2, 1.5, 3).clip(0.02, 0.98).tolist()
        right = 0
        while right < 3 and rng.random() < logistic(math.log(1 / (1 / true_chance(right, p[right]) - 1)) - harder):
            right += 1
        acceptance.drafted(p)
        acceptance.observe(p, right, shift)
    return shift


def test_it_comes_to_the_truth() -> None:
    acceptance = CalibratedAcceptance()
    shift = run(acceptance, np.random.default_rng(0), 3000).value
    for position in range(3):
        for p in (0.2, 0.5, 0.8, 0.95):
            assert acceptance.chance(position, p, shift) == pytest.approx(true_chance(position, p), abs=0.07)
    for _, foretold, accepted, drafts in acceptance.curve():
        if drafts > 200:
            assert foretold == pytest.approx(accepted, abs=0.05)
    assert sum(drafts for *_, drafts in acceptance.curve()) > 3000


def test_a_beginner_is_sceptical_and_learns_from_few_drafts() -> None:
    acceptance = CalibratedAcceptance()
    before = acceptance.chance(0, 0.9)
    assert 0.4 < before < 0.7
    assert acceptance.chance(0, 0.3) < 0.35
    shift = SequenceShift()
    for _ in range(8):
        acceptance.observe([0.9], 1, shift)
    assert acceptance.chance(0, 0.9, shift.value) > 0.8
    for _ in range(25):
        acceptance.observe([0.9], 0, shift)
    assert acceptance.chance(0, 0.9, shift.value) < 0.4


def test_a_sequence_has_a_shift_of_its_own() -> None:
    acceptance, rng = CalibratedAcceptance(), np.random.default_rng(1)
    for _ in range(10):  # many sequences, half of them harder
        easy, hard = run(acceptance, rng, 80), run(acceptance, rng, 80, harder=2.0)
    assert easy.value > 0.4
    assert hard.value < -0.4
    p = 0.7
    truth = true_chance(0, p)
    assert acceptance.chance(0, p, easy.value) == pytest.approx(truth, abs=0.12)
    assert acceptance.chance(0, p, hard.value) < truth - 0.25


def test_drafts_without_confidence_are_calibrated_as_well() -> None:
    acceptance, shift, rng = CalibratedAcceptance(), SequenceShift(), np.random.default_rng(2)
    for _ in range(500):
        acceptance.observe([math.nan, math.nan], int((rng.random(2) < 0.8).cumprod().sum()), shift)
    assert acceptance.chance(0, math.nan, shift.value) == pytest.approx(0.8, abs=0.07)
    assert math.isnan(acceptance.curve()[0][0])


def test_outlook_is_what_was_drafted_lately() -> None:
    acceptance = CalibratedAcceptance()
    for p in (0.97, 0.3):
        for _ in range(300):
            acceptance.drafted([p])
        outlook = acceptance.outlook(0)
        assert sum(weight for weight, _ in outlook) == pytest.approx(1)
        assert max(outlook)[1] == pytest.approx(acceptance.chance(0, p), abs=0.03)
        assert acceptance.means(0, 1) == [pytest.approx(sum(w * a for w, a in outlook))]
    (better,), (mean,), (worse,) = (acceptance.means(0, 1, shift) for shift in (1.0, 0.0, -1.0))
    assert better > mean > worse
    assert len(acceptance.means(2, 20)) == 18
    assert acceptance.outlook(20) == acceptance.outlook(7)  # far positions count as the last


def test_extreme_confidences_stay_finite() -> None:
    acceptance, shift = CalibratedAcceptance(), SequenceShift()
    for p in (0.0, 1.0) * 200:
        acceptance.observe([p, p], int(p), shift)
    assert 0 < acceptance.chance(0, 0.0) < acceptance.chance(0, 1.0) < 1


def test_probes_keep_their_budget() -> None:
    """Whatever the order of costs, probes take a share of the seconds worked and what was there at the start."""
    rng = np.random.default_rng(3)
    for plain_s, start_s in ((1.0, 1.6), (0.01, 0.04)):
        budget, spent, worked = ProbeBudget(plain_s, 0.1), 0.0, 0.0
        assert min(4 * plain_s, START_PROBES * 0.1) == start_s
        for _ in range(5000):
            probe_s = rng.uniform(0.05, 0.15)
            if budget.affords(probe_s):
                budget.spend(probe_s)
                spent += probe_s
            step_s = rng.uniform(0.5, 1.5)
            budget.earn(step_s, probe_s)
            worked += step_s
            assert spent <= start_s + SHARE * worked
        assert spent > 0.8 * SHARE * worked


def test_a_policy_that_is_too_dear_sits_steps_out_while_nothing_is_drafted() -> None:
    thrift = Thrift()
    gaps = []
    for _ in range(8):
        thrift.observe(0.5, 1.0, drafted=False)
        gap = 0
        while thrift.rests:
            thrift.observe_rest(0.0, 1.0)
            gap += 1
        gaps.append(gap)
    assert gaps == [1, 3, 7, 15, 15, 15, 15, 15]
    assert thrift.share < 0.5 / 10
    thrift.observe(10.0, 1.0, drafted=True)
    assert not thrift.rests
    thrift = Thrift()
    thrift.observe(0.005, 1.0, drafted=False)
    assert not thrift.rests  # cheap enough to think in every step


def test_a_policy_that_takes_too_long_saves_time() -> None:
    thrift = Thrift()
    assert thrift.affords_more
    for _ in range(50):
        thrift.observe(0.001, 0.2, False)
        assert thrift.affords_more
    thrift.observe(1.0, 0.2, True)
    done = []
    for _ in range(160):
        thrift.observe(0.02, 0.2, True)
        done.append(thrift.affords_more)
    assert sum(done) == 10
    for _ in range(1000):
        thrift.observe(0.0, 1.0, True)
    assert thrift.affords_more
    assert thrift.share == pytest.approx((0.05 + 1 + 3.2) / (10 + 0.2 + 32 + 1000))
