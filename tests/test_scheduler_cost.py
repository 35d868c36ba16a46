"""Seconds of a step: against plain sums, and against a machine whose true factors are known."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler import Device, Weights, step_cost
from scheduler.correction import Correction
from scheduler.cost import DRAFT, EXPERTS, FILL, FIXED, PARTS, REUSE, ROWS, START

CPU = Device(50e9, row_share=0.1, format_share={"IQ2_XXS": 0.5})
GPU = Device(800e9, row_share=0.02)


def test_a_step_costs_what_a_plain_sum_says() -> None:
    experts = [(13e6, "Q4_K"), (7e6, "IQ2_XXS"), (20e6, "")]
    cost = step_cost(
        dense=[Weights(4e9, GPU), Weights(1e9, CPU)],
        experts=[Weights(n, CPU, f) for n, f in experts],
        kv_per_position=Weights(4e5, GPU),
        draft=[Weights(6e8, GPU)],
        hand_offs_s=1e-3,
    )
    rows, distinct, positions = 3, [14, 20, 8], 300
    seconds = 1e-3 + 4e9 / 800e9 + 1e9 / 50e9 + positions * 4e5 / 800e9
    seconds += (rows - 1) * (0.02 * 4e9 / 800e9 + 0.1 * 1e9 / 50e9)
    for (num_bytes, kind), loaded in zip(experts, distinct, strict=True):
        read_s = num_bytes / (25e9 if kind == "IQ2_XXS" else 50e9)
        seconds += read_s * loaded + 0.1 * read_s * (rows * 8 - loaded)
    found = cost.verify_s(rows, np.array(distinct, float), np.full(3, rows * 8.0), positions)
    assert found == pytest.approx(seconds, rel=1e-12)
    assert sum(replace(cost, fill_row_s=0.5, start_s=9.0).draft_parts(0, 0, late=3)) == 1.5
    assert sum(replace(cost, draft_s=1.0, start_s=9.0).draft_parts(2, 2)) == 11.0
    assert sum(cost.draft_parts(2, 5)) == pytest.approx(6e8 / 800e9 * (2 + 0.02 * 3), rel=1e-12)


def test_the_ceiling_of_a_published_model() -> None:
    """GLM-4.7 in 4.85 bits from 65 GB/s: 89 layers of 8 experts are 10.2 GB, 157 ms, 6.4 tokens/s and no more."""
    expert = Weights(3 * 5120 * 1536 * 4.85 / 8, Device(65e9))
    cost = step_cost([], [expert] * 89, Weights(0, GPU))
    assert cost.plain_s(8) == pytest.approx(0.1567, rel=1e-3)


def test_illegal_speeds_are_named() -> None:
    with pytest.raises(ValueError, match="bytes_per_s is 0"):
        Device(0)
    with pytest.raises(ValueError, match=r"-0\.1"):
        Device(1e9, row_share=-0.1)


def measured(rng: np.random.Generator, factors: np.ndarray, drafts: int) -> tuple[list[float], float]:
    """A step of a machine with these true factors: 5 % noise, and one in 20 is held up by another process."""
    rows = 1 + drafts
    distinct = 8 + rng.integers(0, 8 * drafts + 1)
    parts = np.zeros(len(PARTS))
    parts[[FIXED, ROWS, EXPERTS, REUSE]] = 0.02, 0.001 * drafts, 0.01 * distinct, 0.001 * (8 * rows - distinct)
    seconds = float(factors @ parts) * (1 + 0.05 * rng.standard_normal())
    return parts.tolist(), seconds * (5 if rng.random() < 0.05 else 1)


def test_correction_finds_how_steps_of_different_length_compare() -> None:
    rng = np.random.default_rng(0)
    truth = 3 * np.array([1.2, 1.4, 0.9, 1.5, 1.0, 1.0, 1.0])
    correction = Correction()
    for _ in range(400):
        correction.observe(*measured(rng, truth, int(rng.integers(0, 5))))
    plain = np.array([0.02, 0, 0.08, 0, 0, 0, 0])
    for distinct in (10, 16, 24):
        parts = np.array([0.02, 0.002, 0.01 * distinct, 0.001 * (24 - distinct), 0, 0, 0])
        found = correction.seconds(parts.tolist()) / correction.seconds(plain.tolist())
        assert found == pytest.approx(float(truth @ parts / (truth @ plain)), rel=0.04)


def test_correction_follows_a_machine_that_slows_down_and_keeps_the_proportions() -> None:
    rng = np.random.default_rng(1)
    correction = Correction()
    for slowdown in (1.0, 2.0):
        truth = slowdown * np.ones(len(PARTS))
        for _ in range(60):
            correction.observe(*measured(rng, truth, 0))
        plain_s, long_s = ([0.02, 0, 0.08, 0, 0, 0, 0], [0.02, 0.002, 0.2, 0.004, 0, 0, 0])
        assert correction.seconds(plain_s) == pytest.approx(0.1 * slowdown, rel=0.15)
        ratio = correction.seconds(long_s) / correction.seconds(plain_s)
        assert ratio == pytest.approx(2.26, rel=0.1)  # steps of one kind say nothing of the others


def test_drafting_is_corrected_by_itself() -> None:
    correction = Correction()
    for i in range(100):
        late, passes = i % 10, 1 + i % 3
        correction.observe([0.1, 0, 0.1, 0, 0, 0, 0], 0.2)
        parts = [0, 0, 0, 0, 0.01 * passes, 0.001 * late, 0.002]
        correction.observe(parts, 0.013 * passes + 0.003 * late + 0.004)
    assert correction.factors[DRAFT] == pytest.approx(1.3, rel=0.05)
    assert correction.factors[FILL] == pytest.approx(3, rel=0.05)
    assert correction.factors[START] == pytest.approx(2, rel=0.2)
    assert correction.seconds([0.1, 0, 0.1, 0, 0, 0, 0]) == pytest.approx(0.2, rel=0.03)
