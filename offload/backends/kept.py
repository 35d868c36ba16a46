"""Plans of compiled work that are kept, by what they are for."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from experts.kept import Kept

MOST_PLANS = 64
LEAST_POSITIONS = 512  # that a plan is for; others are for twice as many, and so on

Plan = TypeVar("Plan", bound=Kept)


class KeptPlans:
    """Plans by what they are for; of many those are forgotten that were used longest ago."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, Kept] = {}  # the one used last comes last

    def get(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """The plan of this key, made anew where there is none or where it is stale."""
        plan = self._plans.pop(key, None)
        while plan is None or plan.stale:
            plan = make()
        if len(self._plans) == MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan
        return plan  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self._plans)


def furthest_planned(position: int, num_positions: int) -> int:
    """The last position of a plan for rows that stand up to this one: texts grow, and plans should last."""
    reach = LEAST_POSITIONS
    while reach <= position:
        reach *= 2
    return min(reach, num_positions) - 1
