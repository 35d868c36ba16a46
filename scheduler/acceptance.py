"""Counts how many drafts were verified and accepted, by their position in the draft."""

import numpy as np


class AcceptanceCounter:
    def __init__(self) -> None:
        self._drafted = np.zeros(0, np.int64)
        self._accepted = np.zeros(0, np.int64)

    def observe(self, drafted: int, accepted: int) -> None:
        """One verified draft of `drafted` tokens, the first `accepted` of which were right."""
        if not 0 <= accepted <= drafted:
            raise ValueError(f"{accepted} accepted of {drafted} drafted")
        grow = drafted - len(self._drafted)
        if grow > 0:
            self._drafted, self._accepted = (np.pad(a, (0, grow)) for a in (self._drafted, self._accepted))
        self._drafted[:drafted] += 1
        self._accepted[:accepted] += 1

    @property
    def drafted(self) -> int:
        return int(self._drafted.sum())

    @property
    def accepted(self) -> int:
        return int(self._accepted.sum())

    @property
    def by_position(self) -> list[float]:
        """For each position j the share of the drafts that long whose tokens 1..j were all accepted."""
        return [float(a / d) for a, d in zip(self._accepted, self._drafted, strict=True)]
