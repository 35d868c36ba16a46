"""Seconds of a step from what it makes the machine do: weights read once, rows on top of them, experts, drafting.

An expert that any row of a step uses costs its bytes once; a further row on a loaded expert costs little. That
difference is what makes a draft cheap or dear.

Shapes: L layers with experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

PARTS = ("fixed", "rows", "experts", "reuse", "draft", "fill", "start")  # of a step's seconds
FIXED, ROWS, EXPERTS, REUSE, DRAFT, FILL, START = range(len(PARTS))

Floats = np.ndarray


@dataclass(frozen=True)
class Device:
    """Speed of a memory and of what computes beside it.

    Raises:
        ValueError: a speed or a share that is not positive.
    """

    bytes_per_s: float
    row_share: float = 0.1  # time of one more row on weights, as a share of the time to read them
    format_share: Mapping[str, float] = field(default_factory=dict)  # of bytes_per_s that a format reaches; else 1

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise ValueError(f"bytes_per_s is {self.bytes_per_s}; it must be above 0")
        if self.row_share < 0 or not all(share > 0 for share in self.format_share.values()):
            raise ValueError(f"row_share {self.row_share} and format_share {dict(self.format_share)} must be above 0")


@dataclass(frozen=True)
class Weights:
    """Encoded weights on a device."""

    num_bytes: float
    device: Device
    format: str = ""

    @property
    def read_s(self) -> float:
        return self.num_bytes / (self.device.bytes_per_s * self.device.format_share.get(self.format, 1.0))

    @property
    def row_s(self) -> float:
        """One more row on weights that are read anyway."""
        return self.read_s * self.device.row_share


@dataclass(frozen=True)
class StepCost:
    """What the parts of a step cost, in seconds."""

    fixed_s: float  # weights that every step reads, hand-offs between devices
    row_s: float  # one more row on them
    expert_s_L: Floats  # reading an expert of each layer, first row included
    reuse_s_L: Floats  # one more row on a loaded expert
    position_s: float = 0.0  # reading one cached position for one row
    draft_s: float = 0.0  # one pass of the drafter
    draft_row_s: float = 0.0  # one more sequence in that pass
    fill_row_s: float = 0.0  # showing the drafter one more token that it has not seen
    start_s: float = 0.0  # what the first pass of a step takes beyond the others

    def verify_parts(self, rows: float, distinct_L: Floats, uses_L: Floats, positions: int = 0) -> list[float]:
        """Seconds of a verification by part, drafting and filling being 0.

        Args:
            rows: of all sequences, a mean where layers differ.
            distinct_L: experts that each layer loads.
            uses_L: pairs of a row and an expert in each layer.
            positions: cached positions that the rows read, summed over the rows.
        """
        return [
            self.fixed_s + self.position_s * positions,
            self.row_s * (rows - 1),
            float(distinct_L @ self.expert_s_L),
            float((uses_L - distinct_L) @ self.reuse_s_L),
            0.0,
            0.0,
            0.0,
        ]

    def draft_parts(self, passes: int, rows: int, late: int = 0) -> list[float]:
        """Seconds by part of drafting.

        Args:
            passes: of the drafter.
            rows: guessed tokens.
            late: tokens that it was shown late, beyond the newest of each sequence.
        """
        draft_s = self.draft_s * passes + self.draft_row_s * (rows - passes)
        return [0.0, 0.0, 0.0, 0.0, draft_s, self.fill_row_s * late, self.start_s if passes else 0.0]

    def verify_s(self, rows: float, distinct_L: Floats, uses_L: Floats, positions: int = 0) -> float:
        return sum(self.verify_parts(rows, distinct_L, uses_L, positions))

    def plain_s(self, num_used: int, positions: int = 0) -> float:
        """A step of one row that uses `num_used` experts a layer."""
        used_L = np.full(len(self.expert_s_L), float(num_used))
        return self.verify_s(1, used_L, used_L, positions)


def step_cost(
    dense: Sequence[Weights],
    experts: Sequence[Weights],
    kv_per_position: Weights,
    draft: Sequence[Weights] = (),
    fill: Sequence[Weights] = (),
    hand_offs_s: float = 0.0,
    draft_hand_offs_s: float = 0.0,
    start_s: float = 0.0,
) -> StepCost:
    """The cost of a model that lies on devices of known speed.

    Args:
        dense: what every step reads whatever its rows choose.
        experts: one expert of each layer that has them.
        kv_per_position: keys and values of one position over all layers.
        draft: what one pass of the drafter reads, the experts that it uses included.
        fill: the part of it that a token needs which is only to be seen by later ones.
        hand_offs_s: seconds of a step that no weights explain.
        draft_hand_offs_s: the same of a pass of the drafter.
        start_s: the same of the first pass of a step, beyond that.
    """
    return StepCost(
        fixed_s=hand_offs_s + sum(w.read_s for w in dense),
        row_s=sum(w.row_s for w in dense),
        expert_s_L=np.array([w.read_s for w in experts]),
        reuse_s_L=np.array([w.row_s for w in experts]),
        position_s=kv_per_position.read_s,
        draft_s=draft_hand_offs_s + sum(w.read_s for w in draft),
        draft_row_s=sum(w.row_s for w in draft),
        fill_row_s=sum(w.row_s for w in fill),
        start_s=start_s,
    )
