"""Decides how many tokens to draft for each sequence of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class DraftPolicy(Protocol):
    def choose(self, limits: Sequence[int]) -> list[int]:
        """Draft length of each sequence, at most its limit (0 while its prompt is still being read)."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """Always the same length, where the sequence can take it."""

    num_drafts: int

    def __post_init__(self) -> None:
        if self.num_drafts < 0:
            raise ValueError(f"draft length is {self.num_drafts}; it must be 0 (off) or more")

    def choose(self, limits: Sequence[int]) -> list[int]:
        return [min(self.num_drafts, limit) for limit in limits]
