"""Keeps the policy's own time small: a decision lasts until thinking again costs under 1 % of the time since.

Steps of large models take so long that every one is thought about; on tiny models a decision holds for many. That
nothing is to be drafted depends on little that changes from step to step, so it is thought about less often.
"""

SHARE = 0.01  # of the time of the steps
RESTING_SHARE = 0.004  # of those without drafts
MOST_HELD = 2048  # steps: however dear thinking is, a decision lasts no longer


class Thrift:
    """Sums what the policy took and what the steps took, and says when to think."""

    def __init__(self) -> None:
        self.policy_s = 0.0
        self.steps_s = 0.0
        self._owed_s = 0.0  # of the policy's time, what its share has not paid yet
        self.holds = False  # whether the last decision but this was held for more than its step
        self._held = 0  # steps since the last thought

    def observe(self, policy_s: float, step_s: float, thought: bool, rested: bool = False) -> None:
        """A step of `step_s`, and what the policy took in it; nothing is saved up for later.

        Args:
            rested: the step had no drafts.
        """
        self.policy_s += policy_s
        self.steps_s += step_s
        self._owed_s = max(0.0, self._owed_s + policy_s - (RESTING_SHARE if rested else SHARE) * step_s)
        if thought:
            self.holds = self._held > 0
        self._held = 0 if thought else self._held + 1

    @property
    def thinks(self) -> bool:
        """Whether to think about the next step."""
        return self._owed_s <= 0.0 or self._held >= MOST_HELD

    @property
    def share(self) -> float:
        """The policy's time as a share of the steps'."""
        return self.policy_s / self.steps_s if self.steps_s else 0.0
