"""Nobody starves: bounds on waiting, over random arrivals."""

import numpy as np
import pytest

from scheduler.pacing import PromptPacing

CHUNK, CHUNK_S, STEP_S = 64, 3.0, 0.2


def seconds_of(waiting: list[int], rows: list[int]) -> float:
    """A chunk costs its rows and a floor, a step without one little."""
    prompt = sum(r for w, r in zip(waiting, rows, strict=True) if w != 1)
    return STEP_S + (CHUNK_S * (0.5 + 0.5 * prompt / CHUNK) if prompt else 0.0)


def test_one_sequence_takes_chunks_and_then_single_rows() -> None:
    pacing = PromptPacing(CHUNK)
    taken, waiting = [], 150
    while waiting > 1:
        (rows,) = pacing.rows([waiting])
        pacing.observe([waiting], [rows], 1.0)
        taken.append(rows)
        waiting = max(1, waiting - rows) if waiting - rows else 1
    assert taken == [64, 64, 22]
    assert pacing.rows([1]) == [1]


def test_prompts_come_first_served_and_share_a_chunk() -> None:
    pacing = PromptPacing(CHUNK)
    assert pacing.rows([40, 40, 40]) == [40, 24, 0]
    assert pacing.rows([1, 100, 1, 90, 100]) == [1, 32, 1, 32, 0], "half for the shortest, half for the first"
    assert pacing.rows([100, 90, 100, 20]) == [44, 0, 0, 20]
    assert PromptPacing(1).rows([100, 20]) == [1, 0]


def test_chunks_leave_generation_half_of_the_time() -> None:
    pacing, steps = PromptPacing(CHUNK), []
    for _ in range(200):
        waiting = [1, 10**6]
        rows = pacing.rows(waiting)
        seconds = seconds_of(waiting, rows)
        pacing.observe(waiting, rows, seconds)
        steps.append((rows[1], seconds))
    with_chunk = sum(s for rows, s in steps if rows)
    assert 0.45 <= with_chunk / sum(s for _, s in steps) <= 0.5 + CHUNK_S / sum(s for _, s in steps)
    gaps = "".join("C" if rows else "." for rows, _ in steps)
    assert "CC" not in gaps
    assert max(map(len, gaps.split("C"))) * STEP_S <= CHUNK_S + 2 * STEP_S


@pytest.mark.parametrize("seed", range(4))
def test_nobody_starves(seed: int) -> None:
    """Random arrivals: every step has a row of every sequence that is being generated, and each prompt is done within
    four times the time that it and those before it need alone, plus one chunk."""
    rng = np.random.default_rng(seed)
    pacing, now, sequences = PromptPacing(CHUNK), 0.0, []
    for _ in range(1500):
        if len(sequences) < 6 and rng.random() < 0.03:
            prompt = int(rng.integers(2, 400))
            ahead = sum(s["waiting"] for s in sequences if s["waiting"] > 1)
            alone = -(-(ahead + prompt) // CHUNK) * (CHUNK_S + STEP_S)
            sequences.append(
                {"waiting": prompt, "due": now + 4 * alone + 2 * CHUNK_S, "left": int(rng.integers(5, 80))}
            )
        if not sequences:
            continue
        waiting = [s["waiting"] for s in sequences]
        rows = pacing.rows(waiting)
        seconds = seconds_of(waiting, rows)
        pacing.observe(waiting, rows, seconds)
        now += seconds
        assert sum(r for w, r in zip(waiting, rows, strict=True) if w != 1) <= CHUNK
        for s, taken in zip(sequences, rows, strict=True):
            if s["waiting"] == 1:
                assert taken == 1
                s["left"] -= 1
            else:
                assert now <= s["due"]
                s["waiting"] = max(1, s["waiting"] - taken)
        sequences = [s for s in sequences if s["left"] > 0]
    assert now > 100


def test_a_short_prompt_does_not_wait_for_long_ones() -> None:
    """It is read in as many chunks as its rows fill halves of; the long ones go on meanwhile."""
    pacing, waiting = PromptPacing(CHUNK), [5000, 5000, 5000, 90]
    for _ in range(3):
        rows = pacing.rows(waiting)
        pacing.observe(waiting, rows, 1.0)
        assert rows[0] >= CHUNK // 2
        waiting = [n - taken for n, taken in zip(waiting, rows, strict=True)]
    assert waiting[3] == 0


def test_illegal_chunks_are_named() -> None:
    with pytest.raises(ValueError, match="chunk_rows is 0"):
        PromptPacing(0)
