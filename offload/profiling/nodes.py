"""Memory nodes: how fast the processors of each node read the memory of each."""

import ctypes
import os
import threading
from collections.abc import Mapping
from functools import partial

import numpy as np

from experts.threads import numa
from experts.threads.pool import PHASE_BYTES, run_alone
from experts.threads.topology import Cpus, topology

from ..hardware.probe import ITEM_BYTES
from ..hardware.tasks import read_task
from ..huge_pages import fresh_memory
from .samples import in_turn

BIND = 2  # a memory policy


def read_by_node(num_bytes: int, budget_s: float) -> dict[str, float]:
    """Bytes a second by "node of the processors <- node of the memory"; empty on one node.

    Raises:
        OSError: the system forbids to say where memory lies, as in many containers.
    """
    nodes = {node: cpus for node, cpus in topology().nodes.items() if cpus}
    return read_across(nodes, num_bytes, budget_s) if len(topology().nodes) > 1 else {}


def read_across(nodes: Mapping[int, Cpus], num_bytes: int, budget_s: float) -> dict[str, float]:
    """All pairs of these nodes. Each has memory bound to it and a thread on each of its processors."""
    rates: dict[str, float] = {}
    for home in topology().nodes:
        data = _memory_of(home, num_bytes)
        runs = {f"{node} <- {home}": partial(_read_on, cpus, data) for node, cpus in nodes.items()}
        samples = in_turn(runs, budget_s / len(topology().nodes))
        rates |= {name: sample.rate(num_bytes) for name, sample in samples.items()}
    return rates


def _memory_of(node: int, num_bytes: int) -> np.ndarray:
    """Touched by a thread whose new pages come from this node; other threads keep their policy."""
    data = fresh_memory(num_bytes, huge_pages=True)
    errors: list[OSError] = []

    def touch() -> None:
        try:
            if len(topology().nodes) > 1:
                _bind_memory(node)
            data[:] = 1
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return data


def _bind_memory(node: int) -> None:
    """New pages of this thread come from one node."""
    mask = (ctypes.c_ulong * (numa._MAX_NODES // 64))()
    mask[node // 64] = 1 << node % 64
    numa._call(numa._SET, BIND, mask, numa._MAX_NODES)


def _read_on(cpus: Cpus, data: np.ndarray) -> None:
    """A thread on each of these processors reads its part."""
    run, task, pieces = run_alone(), read_task(), data.size // ITEM_BYTES
    sums = np.zeros((pieces, 64), np.uint8)

    def read(cpu: int, first: int, last: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread, which ends with it
        context = np.array([data.ctypes.data + first * ITEM_BYTES, sums[first:].ctypes.data, ITEM_BYTES, 1])
        phase = np.zeros((1, PHASE_BYTES // 8), np.int64)
        phase[0, :3] = task, context.ctypes.data, last - first
        run(phase.ctypes.data, 1)

    bounds = np.linspace(0, pieces, len(cpus) + 1).astype(int)
    workers = [
        threading.Thread(target=read, args=(cpu, int(bounds[i]), int(bounds[i + 1])))
        for i, cpu in enumerate(sorted(cpus))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
