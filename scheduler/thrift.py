"""Keeps the policy's own time small. Where steps are so short that thinking costs a share of them that shows:

what can wait is done in some steps only;
after a step that brought no draft, whole steps are sat out, more of them the longer none pays.
"""

SHARE = 0.01  # of the time of the steps, above which the policy saves time
RARELY = 16  # steps, one of which it works thoroughly all the same
MOST_RESTED = 15  # steps between two that it plans


class Thrift:
    """Sums what the policy took and what the steps took."""

    def __init__(self) -> None:
        self.policy_s = 0.0
        self.steps_s = 0.0
        self._steps = 0
        self._rest = self._rest_left = 0  # steps

    def observe(self, policy_s: float, step_s: float, drafted: bool) -> None:
        """A step that was planned, and whether it had drafts."""
        self._count(policy_s, step_s)
        self._rest = 0 if drafted or self.share <= SHARE else min(MOST_RESTED, 2 * self._rest + 1)
        self._rest_left = self._rest

    def observe_rest(self, policy_s: float, step_s: float) -> None:
        """A step that was sat out."""
        self._count(policy_s, step_s)
        self._rest_left -= 1

    @property
    def rests(self) -> bool:
        """Whether to sit the next step out."""
        return self._rest_left > 0

    @property
    def share(self) -> float:
        """The policy's time as a share of the steps'."""
        return self.policy_s / self.steps_s if self.steps_s else 0.0

    @property
    def affords_more(self) -> bool:
        return self.share <= SHARE or self._steps % RARELY == 0

    def _count(self, policy_s: float, step_s: float) -> None:
        self.policy_s += policy_s
        self.steps_s += step_s
        self._steps += 1
