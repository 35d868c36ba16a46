"""Notices what else the machine does while something is measured: other processes, throttling, swapping, limits."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from experts.threads.topology import Topology, topology

from ..hardware import Busy
from ..hardware.limits import granted

OTHERS_SHARE = 0.10  # of the processors, taken by other processes
STOLEN_SHARE = 0.05  # taken by other machines of the same host
SLOW_SHARE = 0.6  # of the highest clock
LEAST_S = 0.1  # below, counters of 10 ms say nothing


@dataclass(frozen=True)
class Reading:
    """The system's counters at one moment."""

    at_s: float
    busy_s: float  # of the processors that this process may use, all processes together
    own_s: float  # of this process
    stolen_s: float
    swapped_bytes: int
    throttled: int  # times that heat or the control group held processors back


class Watch:
    """Keeps the reasons for which figures may be too low, and the names of those figures."""

    def __init__(self, of: Topology | None = None) -> None:
        self._of = of or topology()
        self._reasons: dict[str, None] = {}
        self._affected: dict[str, None] = {}
        if limit := granted(self._of):
            self._reasons[limit] = None

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """While figures of this name are measured."""
        before = self.read()
        yield
        if found := self.reasons(before, self.read()):
            self._affected[name] = None
            self._reasons |= dict.fromkeys(found)

    def result(self) -> Busy:
        return Busy(tuple(self._reasons), tuple(self._affected))

    def read(self) -> Reading:
        cpus = psutil.cpu_times(percpu=True)
        chosen = [times for i, times in enumerate(cpus) if i in self._of.cpus] or cpus
        idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in chosen)
        stolen = sum(getattr(times, "steal", 0.0) for times in chosen)
        guest = sum(getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0) for times in chosen)  # also user's
        own = psutil.Process().cpu_times()
        with warnings.catch_warnings():  # where the system does not count
            warnings.simplefilter("ignore")
            swap = psutil.swap_memory()
        everything = sum(sum(times) for times in chosen) - guest
        return Reading(
            time.perf_counter(),
            everything - idle - stolen,
            own.user + own.system,
            stolen,
            int(swap.sin + swap.sout),
            _throttled(self._of),
        )

    def reasons(self, before: Reading, after: Reading) -> list[str]:
        """Why figures taken between two readings may be too low."""
        seconds, cpus = after.at_s - before.at_s, max(1, len(self._of.cpus))
        found = []
        if seconds >= LEAST_S:
            others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
            if others > OTHERS_SHARE * cpus * seconds:
                where = "the only processor" if cpus == 1 else f"the {cpus} processors"
                found.append(f"other processes are at work on {where}")
            if after.stolen_s - before.stolen_s > STOLEN_SHARE * cpus * seconds:
                found.append("the host gives processor time to other machines")
        if after.swapped_bytes > before.swapped_bytes:
            found.append("memory is being swapped")
        if after.throttled > before.throttled:
            found.append("processors were held back, by heat or by a limit of the control group")
        clock = psutil.cpu_freq()
        if clock and clock.max and clock.current < SLOW_SHARE * clock.max:
            found.append(f"processors run at {clock.current:.0f} of {clock.max:.0f} MHz")
        return found


def _throttled(of: Topology) -> int:
    """Events so far: of heat, and of the control group of this process."""
    total = 0
    for cpu in of.cpus:
        total += _number(Path(f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"))
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu"):
        try:
            lines = Path(folder, "cpu.stat").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("nr_throttled "))
    return total


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
