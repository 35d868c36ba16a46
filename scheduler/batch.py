"""Chooses the draft rows of a step over all its sequences, by value per cost.

An expert that the row of any sequence loads is nearly free for all others. So the price of a row falls as rows are
added, and the rows are added one by one, always the one that gives most tokens for its seconds, to the end; what is
taken is the beginning of that order that gains most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

MOST_LOADED = 0.999  # never all: a share of nothing has no quotient


@dataclass(frozen=True)
class RowPrice:
    """Seconds of one more row: what every row costs, and what its experts cost if all of them are new."""

    row_s: float
    new_experts_s: float


@dataclass(frozen=True)
class Candidate:
    """The drafted rows of one sequence."""

    survival: list[float]  # S_1, S_2, ...
    new_shares: Sequence[float]  # of each row's experts that the rows before it in the sequence do not load
    loaded: float  # share of all experts that the sequence's other rows load, drafts or not


@dataclass(frozen=True)
class Choice:
    lengths: list[int]  # rows to verify of each sequence
    gain: float  # tokens over verifying no draft
    order: list[tuple[int, float, float]]  # every row looked at: its sequence, survival and seconds


def loaded_share(rows: int, used_share: float) -> float:
    """Share of a layer's experts that `rows` rows load if they choose at random."""
    return 1.0 - (1.0 - used_share) ** rows


def choose_rows(candidates: Sequence[Candidate], row: RowPrice, used_share: float, price: float) -> Choice:
    """Draft rows to verify.

    Args:
        used_share: experts per row as a share of all experts.
        price: tokens per second.
    """
    unloaded = [1.0 - min(c.loaded, MOST_LOADED) for c in candidates]
    lengths = [0] * len(candidates)
    best, best_gain, gain = list(lengths), 0.0, 0.0
    order = []
    for _ in range(sum(len(c.survival) for c in candidates)):
        by_nobody = prod(unloaded)
        rate, seconds, chosen = -1.0, 0.0, 0
        for i, c in enumerate(candidates):
            j = lengths[i]
            if j < len(c.survival):
                row_s = row.row_s + row.new_experts_s * c.new_shares[j] * by_nobody / unloaded[i]
                if c.survival[j] / row_s > rate:
                    rate, seconds, chosen = c.survival[j] / row_s, row_s, i
        c, j = candidates[chosen], lengths[chosen]
        unloaded[chosen] = max(1.0 - MOST_LOADED, unloaded[chosen] - c.new_shares[j] * used_share)
        lengths[chosen] += 1
        gain += c.survival[j] - price * seconds
        order.append((chosen, c.survival[j], seconds))
        if gain > best_gain:
            best, best_gain = list(lengths), gain
    return Choice(best, best_gain, order)
