"""Plans of compiled work that are made once and run again and again."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from experts.threads import num_threads
from experts.workspace import Workspace

MOST_ROWS = 32  # plans for more rows are not kept: they have much to do
MOST_PLANS = 64


class Kept:
    """A plan over scratch memory that others grow, for a number of threads that others set; its maker makes it again.

    Where the memory grows while a plan is made, that plan is stale from the beginning.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._made_for = workspace.growths, num_threads()

    @property
    def stale(self) -> bool:
        """Whether its scratch memory has moved, or the number of threads is another."""
        return self._made_for != (self._workspace.growths, num_threads())


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
