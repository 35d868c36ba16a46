"""Memory that is larger than any cache, to be read by the threads of the kernels again and again."""

import time

import numpy as np

from experts.threads import team

from ..huge_pages import fresh_memory
from .tasks import PIECE_BYTES, copy_task, read_task

PROBE_BYTES = 512 << 20
ITEM_BYTES = 1 << 20
FEW_BYTES, FEW_READS = 256 << 20, 5  # for a quick answer


class Probe:
    """Memory full of ones, so that every page is there.

    Args:
        num_bytes: a whole number of MiB.
        huge_pages: ask for them, as the copies of weights do; False asks for small ones, as mapped files have.
    """

    def __init__(self, num_bytes: int = PROBE_BYTES, huge_pages: bool = True) -> None:
        self.num_bytes = num_bytes
        self.data = fresh_memory(num_bytes, huge_pages)
        self.data[:] = 1
        self.sums = np.zeros((num_bytes // ITEM_BYTES, 64), np.uint8)

    def read(self, share: float = 1.0) -> None:
        """Reads a share of the memory on all threads."""
        items = max(1, int(share * len(self.sums)))
        context = np.array([self.data.ctypes.data, self.sums.ctypes.data, ITEM_BYTES, 1])
        with team.LOCK:
            team.run([(read_task(), context.ctypes.data, items)], items * ITEM_BYTES)

    def copy_half(self) -> None:
        """Copies the first half of the memory to the second."""
        items = len(self.sums) // 2
        half = items * ITEM_BYTES
        context = np.array([self.data.ctypes.data, self.data.ctypes.data + half, ITEM_BYTES, 1])
        with team.LOCK:
            team.run([(copy_task(), context.ctypes.data, items)], half)

    def reread(self, num_bytes: int, repeats: int) -> None:
        """Reads the first bytes, a multiple of 256, again and again on this thread."""
        context = np.zeros(4, np.int64)
        context[[0, 1, PIECE_BYTES, 3]] = self.data.ctypes.data, self.sums.ctypes.data, num_bytes, repeats
        with team.LOCK:
            team.run([(read_task(), context.ctypes.data, 1)], 0)


def read_bytes_per_s() -> float:
    """What the threads of the kernels read together: the best of a few times, in about a fifth of a second."""
    probe = Probe(FEW_BYTES)
    return FEW_BYTES / min(_seconds(probe) for _ in range(FEW_READS))


def _seconds(probe: Probe) -> float:
    started = time.perf_counter()
    probe.read()
    return time.perf_counter() - started
