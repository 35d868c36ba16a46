"""Read bandwidth of the RAM by number of threads, how many are enough, copies, and what huge pages bring."""

from collections.abc import Mapping
from functools import partial

import experts
from experts.threads.topology import topology

from ..hardware.probe import Probe
from .samples import Sample, in_turn

KNEE_SHARE = 0.95  # of the best rate


def thread_counts(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and the largest."""
    powers = [1 << i for i in range(most.bit_length())]
    return sorted({n for p in powers for n in (p, p + p // 2) if n <= most} | {most})


def read_by_threads(probe: Probe, counts: list[int], budget_s: float) -> dict[int, Sample]:
    """Seconds to read the whole probe, all counts in turn; the number of threads is afterwards as before."""

    def read_with(count: int) -> None:
        experts.set_threads(count)
        probe.read()

    before = experts.num_threads()
    try:
        return in_turn({n: partial(read_with, n) for n in counts}, budget_s)
    finally:
        experts.set_threads(before)


def knee(rates: Mapping[int, float]) -> int:
    """The fewest threads that read as fast as any number does, but for 5 %."""
    return min(count for count, rate in rates.items() if rate >= KNEE_SHARE * max(rates.values()))


def default_counts() -> list[int]:
    """Up to the cores that the process may use; with fewer, up to what the control group pays for."""
    return thread_counts(max(topology().num_threads, experts.num_threads()))
