"""How work is spread over threads: phases one after the other, the items of a phase taken from a shared counter.

Items never share results, so the outcome does not depend on which thread takes which. A shared counter rather than
fixed shares, and one parallel region for all phases of a call: a thread that the system holds up then delays the others
by at most the one item that it holds.
"""

import os
import threading
from functools import cache
from importlib import import_module
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from experts.build import INLINE, KERNEL, build_key, keyed
from experts.memory import caller, pause, read_counter, take_ticket

# GNU OpenMP starts a region in microseconds; numba's own workqueue needs tens of them and is not safe to call from two
# threads. The choice only counts before the first parallel region of the process.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

_WAIT_POLICY = "OMP_WAIT_POLICY"


def _load_patient_openmp() -> None:
    """Loads OpenMP so that idle threads sleep, unless the user has chosen otherwise.

    GNU OpenMP reads its wait policy from the environment, once, as it is loaded. By default idle threads spin for
    milliseconds, and where a core is shared with another process every region then waits for the scheduler: on two
    cores with one of them busy, drafting on the tiny model ran at 120 to 200 tokens/s instead of 370 to 480. Where all
    cores are idle, waking costs 4 %.
    """
    if _WAIT_POLICY in os.environ:
        return
    os.environ[_WAIT_POLICY] = "passive"
    try:
        import_module("numba.np.ufunc.omppool")
    except ImportError:  # this numba has no OpenMP layer
        pass
    finally:
        del os.environ[_WAIT_POLICY]


_load_patient_openmp()

PHASE_TASK, PHASE_CONTEXT, PHASE_ITEMS, PHASE_TAKEN, PHASE_DONE, PHASE_FIELDS = range(6)

_BYTES_PER_THREAD = 1 << 20  # some 50 to 100 microseconds of work, far above the cost of a parallel region

LOCK = threading.Lock()  # one call of the kernels at a time: they share scratch memory

_call_task = caller(2)
_num_threads = int(numba.config.NUMBA_NUM_THREADS)


def num_threads() -> int:
    """Threads that the kernels use."""
    return _num_threads


def set_threads(count: int) -> None:
    """Limits the kernels to `count` threads; results do not depend on it.

    Raises:
        ValueError: Not between 1 and the threads that numba was started with.
    """
    global _num_threads
    if not 1 <= count <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads must be 1 to {numba.config.NUMBA_NUM_THREADS}, not {count}")
    _num_threads = count


@njit(**INLINE)
def _work_through(phases: Any, address: int) -> None:
    """One thread's part: takes items of a phase until none is left, waits for those that others took, goes on.

    A thread that the system has not started yet holds nothing, so nobody waits for it.
    """
    for phase in range(len(phases)):
        task, context, items = phases[phase, PHASE_TASK], phases[phase, PHASE_CONTEXT], phases[phase, PHASE_ITEMS]
        taken = address + 8 * (PHASE_FIELDS * phase + PHASE_TAKEN)
        done = address + 8 * (PHASE_FIELDS * phase + PHASE_DONE)
        item = take_ticket(taken)
        while item < items:
            _call_task(task, (context, item))
            take_ticket(done)
            item = take_ticket(taken)
        while read_counter(done) < items:
            pause()


@cache
def _runner() -> Any:
    build = build_key()

    @njit(parallel=True, nogil=True, **KERNEL)
    def run_phases(phases: Any, address: int, workers: int) -> None:
        keyed(build)
        if workers == 1:
            _work_through(phases, address)
        else:
            for _ in prange(workers):
                _work_through(phases, address)

    return run_phases


def run(phases: list[tuple[int, int, int]], work_bytes: int) -> None:
    """Runs phases (address of task(context, item), context, number of items) in order. Call with LOCK held.

    Args:
        phases: What to do.
        work_bytes: About how many bytes the phases go through: little work is not worth waking threads.
    """
    table = np.zeros((len(phases), PHASE_FIELDS), np.int64)
    table[:, :PHASE_TAKEN] = phases
    workers = min(_num_threads, 1 + work_bytes // _BYTES_PER_THREAD, max(items for _, _, items in phases))
    before = numba.get_num_threads()
    numba.set_num_threads(workers)
    try:
        _runner()(table, table.ctypes.data, workers)
    finally:
        numba.set_num_threads(before)
