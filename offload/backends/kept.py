"""Plans of compiled work that are kept, by what they are for."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from experts.kept import Kept

MOST_PLANS = 64

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
