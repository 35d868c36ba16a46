"""What the scheduler counts: acceptance and unions."""

import numpy as np
import pytest

from scheduler import AcceptanceCounter, ReuseCounter, distinct_by_layer, distinct_experts


def test_acceptance_by_position() -> None:
    counter = AcceptanceCounter()
    for drafted, accepted in [(3, 3), (3, 1), (1, 1), (0, 0), (3, 0)]:
        counter.observe(drafted, accepted)
    assert (counter.drafted, counter.accepted) == (10, 5)
    assert counter.by_position == [3 / 4, 1 / 3, 1 / 3]
    assert AcceptanceCounter().by_position == []
    with pytest.raises(ValueError, match="2 accepted of 1"):
        counter.observe(1, 2)


def test_reuse_counts_unions() -> None:
    counter = ReuseCounter()
    assert (counter.experts_per_step, counter.reuse) == (0.0, 0.0)
    counter.observe([np.array([[0, 1], [1, 2]]), np.array([[5, 6], [5, 6]])])
    assert counter.experts_per_step == (3 + 2) / 2
    assert counter.reuse == pytest.approx(1 - 5 / 8)
    counter.observe([np.array([[0, 1]]), np.array([[0, 1]])])
    assert (counter.steps, counter.experts_per_step) == (2, 9 / 4)


def test_distinct_experts_equals_a_set() -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 2, 5):
        ids = rng.integers(0, 16, (rows, 4))
        assert distinct_experts(ids) == len({int(e) for e in ids.ravel()})


def test_distinct_by_layer_equals_sets() -> None:
    rng = np.random.default_rng(1)
    for rows in ([3, 3, 3], [4, 4, 2, 2, 1], [1]):
        expert_ids = [rng.integers(0, 16, (n, 4), dtype=np.int32) for n in rows]
        distinct_L, uses_L = distinct_by_layer(expert_ids)
        assert distinct_L.tolist() == [len({int(e) for e in ids.ravel()}) for ids in expert_ids]
        assert uses_L.tolist() == [4 * n for n in rows]
    assert [len(x) for x in distinct_by_layer([])] == [0, 0]
