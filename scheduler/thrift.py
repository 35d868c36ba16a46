"""Keeps the policy's own time small: where steps are short, what can wait is done in some of them only."""

SHARE = 0.01  # of the time of the steps, above which the policy saves time
RARELY = 16  # steps, one of which it works thoroughly all the same


class Thrift:
    """Sums what the policy took and what the steps took."""

    def __init__(self) -> None:
        self.policy_s = 0.0
        self.steps_s = 0.0
        self._steps = 0

    def observe(self, policy_s: float, step_s: float) -> None:
        self.policy_s += policy_s
        self.steps_s += step_s
        self._steps += 1

    @property
    def share(self) -> float:
        """The policy's time as a share of the steps'."""
        return self.policy_s / self.steps_s if self.steps_s else 0.0

    @property
    def affords_more(self) -> bool:
        return self.share <= SHARE or self._steps % RARELY == 0
