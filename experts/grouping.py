"""Sorts the (row, expert) pairs of a step by expert, so that each expert's weights are read once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from experts.build import KERNEL

GROUP_MATRIX, GROUP_FIRST, GROUP_LAST, GROUP_FIELDS = 0, 1, 2, 3


@dataclass(frozen=True)
class Grouping:
    """Pairs p = t * K + k in the order of their expert.

    Attributes:
        order: int64 (T * K), the pair at each sorted position.
        positions: int64 (T * K), the sorted position of each pair.
        groups: int64 (G, 3), expert and range of sorted positions, experts ascending, only those that a row chose.
        largest: Rows of the largest group.
    """

    order: NDArray[np.int64]
    positions: NDArray[np.int64]
    groups: NDArray[np.int64]
    largest: int


@njit(**KERNEL)
def _sort(expert_ids: Any, ends: Any, order: Any, positions: Any, groups: Any) -> tuple[int, int]:
    """A counting sort; returns (number of groups, rows of the largest one)."""
    for pair in range(expert_ids.size):
        ends[expert_ids[pair]] += 1
    count = largest = first = 0
    for expert in range(ends.size):
        rows = ends[expert]
        if rows > 0:
            groups[count, GROUP_MATRIX], groups[count, GROUP_FIRST] = expert, first
            groups[count, GROUP_LAST] = first + rows
            count += 1
            largest = max(largest, rows)
        ends[expert] = first
        first += rows
    for pair in range(expert_ids.size):
        position = ends[expert_ids[pair]]
        ends[expert_ids[pair]] += 1
        order[position] = pair
        positions[pair] = position
    return count, largest


def group_rows(expert_ids: NDArray[np.int32], num_experts: int) -> Grouping:
    """Groups checked expert ids (T, K) by expert; pairs of one expert stay in their order."""
    pairs = expert_ids.size
    ends = np.zeros(num_experts, np.int64)
    order, positions = np.empty(pairs, np.int64), np.empty(pairs, np.int64)
    groups = np.empty((min(pairs, num_experts), GROUP_FIELDS), np.int64)
    count, largest = _sort(expert_ids.reshape(-1), ends, order, positions, groups)
    return Grouping(order, positions, groups[:count], largest)


def one_group(rows: int) -> Grouping:
    """All rows meet one and the same matrix."""
    identity = np.arange(rows, dtype=np.int64)
    return Grouping(identity, identity, np.array([[0, 0, rows]], np.int64), rows)
