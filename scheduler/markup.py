"""What drafts truly cost, as a multiple of what they are priced at, by the seconds of whole steps.

The prices of a step's parts are learned so that a step which another process held up does not count, and of held
steps only some are looked at. But what a user waits for is the sum, the long steps included, and with them whatever no
part stands for. So the seconds of all held steps are summed: of those without drafts, to know what a step takes just
now, and of those with drafts, to know what these add.
"""

PLAIN_MEMORY, DRAFT_MEMORY = 128.0, 64.0  # steps that count
PRIOR = 8.0  # steps with drafts that the prices are believed for
FORGOTTEN = 1 / 1024  # of what drafts added, with each step without: it may be different by now
LONGEST = 8.0  # times what was foretold: a machine that slept says nothing


class Markup:
    def __init__(self) -> None:
        self._plain_s = self._plain_measured_s = 0.0  # of steps without drafts: foretold, measured
        self._added_s = self._added_measured_s = 0.0  # by drafts: foretold, measured
        self._prior_s = 0.0

    def observe_plain(self, steps: int, foretold_s: float, measured_s: float) -> None:
        """Steps without drafts, in all."""
        keep, remember = (1 - 1 / PLAIN_MEMORY) ** steps, (1 - FORGOTTEN) ** steps
        self._plain_s = keep * self._plain_s + foretold_s
        self._plain_measured_s = keep * self._plain_measured_s + measured_s
        self._added_s, self._added_measured_s = remember * self._added_s, remember * self._added_measured_s

    def observe_drafts(self, plain_s: float, step_s: float, measured_s: float) -> None:
        """A step that was to take `step_s`, without its drafts `plain_s`."""
        now, keep = self._plain_measured_s / self._plain_s if self._plain_s else 1.0, 1 - 1 / DRAFT_MEMORY
        self._added_s = keep * self._added_s + step_s - plain_s
        self._added_measured_s = keep * self._added_measured_s + min(measured_s, LONGEST * step_s) - now * plain_s
        self._prior_s = PRIOR * (step_s - plain_s)

    @property
    def value(self) -> float:
        """At least 1: what seems cheaper than foretold may be luck."""
        foretold_s = self._added_s + self._prior_s
        return max(1.0, (self._added_measured_s + self._prior_s) / foretold_s) if foretold_s else 1.0
