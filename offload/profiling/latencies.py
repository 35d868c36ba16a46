"""Seconds that a call of the kernels takes beside its work: with threads that are awake, and with sleeping ones."""

import time

import numpy as np

import experts
from experts.threads import team

from ..hardware.tasks import empty_task
from .samples import Sample, in_turn

REGIONS = 100  # in a row, for threads that stay awake
SLEEP_S = 2e-3  # until threads have gone to sleep
WORK_BYTES = 1 << 40  # that all threads are woken for


def region(budget_s: float) -> float:
    """One region after the other."""

    def regions() -> None:
        for _ in range(REGIONS):
            _region()

    return in_turn({0: regions}, budget_s)[0].median / REGIONS


def wake(budget_s: float) -> float:
    """A region whose threads slept before."""
    begun = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < 5 or time.perf_counter() - begun < budget_s:
        time.sleep(SLEEP_S)
        started = time.perf_counter()
        _region()
        seconds.append(time.perf_counter() - started)
    return Sample(tuple(seconds)).median


def _region() -> None:
    """As many empty pieces of work as there are threads."""
    context = np.zeros(1, np.int64)
    with team.LOCK:
        team.run([(empty_task(), context.ctypes.data, experts.num_threads())], WORK_BYTES)
