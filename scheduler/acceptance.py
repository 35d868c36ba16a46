"""Counts how many drafts were verified and accepted, by their position in the draft."""

from collections import Counter


class AcceptanceCounter:
    def __init__(self) -> None:
        self._steps: Counter[tuple[int, int]] = Counter()  # by tokens drafted and accepted

    def observe(self, drafted: int, accepted: int) -> None:
        """One verified draft of `drafted` tokens, the first `accepted` of which were right."""
        if not 0 <= accepted <= drafted:
            raise ValueError(f"{accepted} accepted of {drafted} drafted")
        self._steps[drafted, accepted] += 1

    @property
    def drafted(self) -> int:
        return sum(num * drafted for (drafted, _), num in self._steps.items())

    @property
    def accepted(self) -> int:
        return sum(num * accepted for (_, accepted), num in self._steps.items())

    @property
    def by_position(self) -> list[float]:
        """For each position j the share of the drafts that long whose tokens 1..j were all accepted."""
        shares = []
        for position in range(max((drafted for drafted, _ in self._steps), default=0)):
            reached = sum(num for (drafted, _), num in self._steps.items() if drafted > position)
            right = sum(num for (_, accepted), num in self._steps.items() if accepted > position)
            shares.append(right / reached)
        return shares
