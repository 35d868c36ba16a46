"""The rows of one step: which token, of which sequence, at which position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ContextFull


@dataclass(frozen=True)
class Rows:
    """T rows that are computed together; all arrays are int64 (T,).

    A row's keys and values go to `positions[t]` of cache slot `slots[t]`, and it sees positions 0..`positions[t]`
    there.
    """

    token_ids: np.ndarray
    slots: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def consecutive(cls, slot: int, start: int, token_ids: Sequence[int]) -> "Rows":
        """Rows of one sequence at positions start, start + 1, ..."""
        num = len(token_ids)
        return cls(np.array(token_ids, np.int64), np.full(num, slot, np.int64), np.arange(start, start + num))

    @classmethod
    def concat(cls, parts: Sequence["Rows"]) -> "Rows":
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.token_ids for p in parts]),
            np.concatenate([p.slots for p in parts]),
            np.concatenate([p.positions for p in parts]),
        )

    def __getitem__(self, index: slice | np.ndarray) -> "Rows":
        return Rows(self.token_ids[index], self.slots[index], self.positions[index])

    def take(self, parts: Sequence[slice]) -> "Rows":
        """These ranges of the rows."""
        return Rows.concat([self[part] for part in parts])

    def next(self, token_ids: np.ndarray) -> "Rows":
        """The rows that follow each of these in its slot."""
        return Rows(token_ids, self.slots, self.positions + 1)

    @property
    def host(self) -> "Rows":
        """Rows that a backend took to its device have the host's here; these are on the host."""
        return self


def check_room(rows: Rows, num_positions: int) -> None:
    """
    Raises:
        ContextFull: a row stands outside a cache of so many positions.
    """
    if len(rows) and rows.positions.max() >= num_positions:
        raise ContextFull(f"position {rows.positions.max()} is outside the context of {num_positions}: raise --context")
