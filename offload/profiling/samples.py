"""Repeated measurements: several things timed in turn within a time budget, medians with their spread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

LEAST, MOST = 3, 200  # rounds

Name = TypeVar("Name")


@dataclass(frozen=True)
class Sample:
    """Seconds of one thing, measured several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        low, high = np.percentile(self.seconds, [10, 90])
        return float(high - low) / self.median

    def rate(self, amount: float) -> float:
        """Amount a second, by the median."""
        return amount / self.median


def in_turn(
    runs: Mapping[Name, Callable[[], object]], budget_s: float, least: int = LEAST, pause_s: float = 0.0
) -> dict[Name, Sample]:
    """Times every run once a round, for as many rounds as the budget allows but at least a few.

    The first round does not count. What disturbs a round disturbs all: what was measured in turn can be compared.
    A pause before each lets threads of other libraries come to rest, which spin on for a while.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    begun = time.perf_counter()
    for number in range(MOST + 1):
        for name, run in runs.items():
            if pause_s:
                time.sleep(pause_s)
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
        if number >= least and time.perf_counter() - begun > budget_s:
            break
    return {name: Sample(tuple(values)) for name, values in seconds.items()}
