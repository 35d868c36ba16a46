"""Blocks that run as kept plans have, bit for bit, the results of the same operations one by one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import experts
import offload
from offload.backends.cpu_layers import KEPT_ROWS, CpuLayers
from offload.cuts import Cut, take_all
from offload.transformer.layers import Layers
from offload.transformer.rows import Rows
from offload.transformer.trunk import Trunk

CONTEXT = 1100  # attention takes positions in pieces of 512
MakeCut = Callable[[], Cut]


@pytest.fixture(scope="module")
def trunk(tiny_path: str) -> Trunk:
    return offload.load(tiny_path, device="cpu", slots=3, context=CONTEXT, mtp="off").trunk


def one_by_one(trunk: Trunk) -> Trunk:
    """The same weights and cache, without plans."""
    assert isinstance(trunk.layers, CpuLayers)
    return replace(trunk, layers=Layers(trunk.layers.config, trunk.layers.backend, trunk.layers.rope_table))


def check(trunk: Trunk, rows: Rows, cut: MakeCut = lambda: take_all) -> None:
    """Both ways write the same to the cache, so that one can follow the other."""
    expected = one_by_one(trunk).forward(rows, cut(), taps=(0, 2))
    found = trunk.forward(rows, cut(), taps=(0, 2))
    assert np.array_equal(found.hidden_TD, expected.hidden_TD)
    assert all(map(np.array_equal, found.expert_ids, expected.expert_ids))
    assert all(np.array_equal(found.tapped[layer], states) for layer, states in expected.tapped.items())


def random_rows(slot: int, start: int, count: int) -> Rows:
    return Rows.consecutive(slot, start, np.random.default_rng(start + count).integers(0, 4096, count).tolist())


@pytest.mark.parametrize("count", [1, 2, KEPT_ROWS, KEPT_ROWS + 1, 40])
def test_any_number_of_rows(trunk: Trunk, count: int) -> None:
    check(trunk, random_rows(0, 0, 50))
    for start in (0, 50):
        check(trunk, random_rows(0, start, count))


def test_long_contexts_and_several_slots(trunk: Trunk) -> None:
    check(trunk, random_rows(0, 0, 600))
    check(trunk, random_rows(1, 0, 520))
    for step in range(4):
        parts = [random_rows(0, 600 + step, 1), random_rows(1, 520 + step, 2), random_rows(2, step, 1)]
        check(trunk, Rows.concat(parts))
        check(trunk, parts[1])


@pytest.mark.parametrize("kept", [[slice(0, 1)], [slice(0, 2), slice(3, 5)], [slice(0, 6)]])
def test_rows_dropped_on_the_way(trunk: Trunk, kept: list[slice]) -> None:
    def second_layer() -> Cut:
        asked: list[int] = []
        return lambda ids_TK: kept if asked.append(len(ids_TK)) or len(asked) == 2 else None  # type: ignore[func-returns-value]

    check(trunk, random_rows(0, 0, 6), second_layer)


def test_plans_follow_the_number_of_threads(trunk: Trunk) -> None:
    before = experts.num_threads()
    try:
        for threads in (1, before):
            experts.set_threads(threads)
            check(trunk, random_rows(0, 0, 2))
    finally:
        experts.set_threads(before)


def test_plans_are_kept_for_few_rows_only(trunk: Trunk) -> None:
    layers = trunk.layers
    assert isinstance(layers, CpuLayers)
    fresh = replace(trunk, layers=CpuLayers(layers.config, layers.backend, layers.rope_table))
    for count in (1, 3, 100, 3, 1, 200):
        fresh.forward(random_rows(0, 0, count))
    assert len(fresh.layers.plans) == 2 * len(trunk.weights.blocks)  # type: ignore[attr-defined]
