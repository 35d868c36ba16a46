"""The read bandwidth of this machine's memory, by the number of threads: what weights can be streamed with at best."""

import statistics
import time
from pathlib import Path

import numpy as np
from numba import cfunc

import experts
from experts import threads
from experts.memory import load_i64
from experts.tasks import TASK
from experts.vec import load_i8x64, store

PROBE_BYTES = 512 << 20
_ITEM_BYTES = 1 << 20
_LINES = 4  # 64 bytes each, in flight at a time


@cfunc(TASK)
def _read(context: int, item: int) -> int:
    """Reads every byte of one item."""
    source = load_i64(context) + item * _ITEM_BYTES
    a, b, c, d = load_i8x64(source), load_i8x64(source), load_i8x64(source), load_i8x64(source)
    for offset in range(0, _ITEM_BYTES, 64 * _LINES):
        a = a ^ load_i8x64(source + offset)
        b = b ^ load_i8x64(source + offset + 64)
        c = c ^ load_i8x64(source + offset + 128)
        d = d ^ load_i8x64(source + offset + 192)
    store(load_i64(context + 8) + 64 * item, (a ^ b) ^ (c ^ d))
    return 0


def last_level_cache_bytes() -> int:
    """All last-level caches together, 0 where the system does not say."""
    found = {}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        level, size, shared = ((folder / name).read_text().strip() for name in ("level", "size", "shared_cpu_list"))
        found[int(level), shared] = int(size.removesuffix("K")) << 10
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)


class Probe:
    """Memory that is larger than any cache, to be read again and again."""

    def __init__(self) -> None:
        self._items = PROBE_BYTES // _ITEM_BYTES
        self._data = np.ones(PROBE_BYTES, np.uint8)  # written, so that every page is there
        self._sums = np.empty((self._items, 64), np.uint8)
        self._context = np.array([self._data.ctypes.data, self._sums.ctypes.data])

    def read(self, share: float = 1.0) -> None:
        """Reads a share of the memory on all threads."""
        items = max(1, int(share * self._items))
        with threads.LOCK:
            threads.run([(_read.address, self._context.ctypes.data, items)], items * _ITEM_BYTES)

    def by_threads(self, repeats: int = 5) -> dict[int, float]:
        """Bytes a second for 1, 2, 4, ... threads and for all; medians."""
        most = experts.num_threads()
        found = {}
        for count in sorted({*(1 << i for i in range(most.bit_length())), most}):
            experts.set_threads(count)
            seconds = []
            for _ in range(repeats + 1):
                started = time.perf_counter()
                self.read()
                seconds.append(time.perf_counter() - started)
            found[count] = PROBE_BYTES / statistics.median(seconds[1:])
        experts.set_threads(most)
        return found
