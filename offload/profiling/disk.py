"""How fast a disk is read into a mapping, as models are: a file of bounded size that never outlives the process."""

import ctypes
import mmap
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from experts.threads import team

from ..hardware import Disk
from ..hardware.tasks import read_task

CHUNK_BYTES = 16 << 20
ITEM_BYTES = 1 << 20
LEAST_BYTES = 2 * CHUNK_BYTES
FREE_SHARE = 0.1  # of the disk's free space that the file may take
CACHED_SHARE = 0.02  # of the file in memory, above which the read is not the disk's


class DiskError(Exception):
    """Why the disk could not be measured."""


def measure_disk(folder: Path, most_bytes: int, budget_s: float) -> Disk:
    """Writes a file until half of the budget is spent, drops it from the system's cache, and reads all of it once.

    Raises:
        DiskError: the folder cannot be written to, or the disk is full.
    """
    try:
        room = int(shutil.disk_usage(folder).free * FREE_SHARE)
        if room < LEAST_BYTES:
            raise DiskError(f"{folder} has too little room: {LEAST_BYTES >> 20} MB must be a tenth of what is free")
        with tempfile.TemporaryFile(dir=folder) as file:  # without a name where the system can
            size = _fill(file.fileno(), min(most_bytes, room), budget_s / 2)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as pages:
                _drop(file.fileno())
                cached = _resident_share(pages) > CACHED_SHARE
                data = np.frombuffer(pages, np.uint8)
                started = time.perf_counter()
                _read(data)
                seconds = time.perf_counter() - started
                del data
    except OSError as error:
        raise DiskError(f"{folder}: {error.strerror}") from None
    return Disk(str(folder), size / seconds, cached)


def _fill(file: int, most_bytes: int, budget_s: float) -> int:
    """Writes bytes that no file system can shorten, and waits until the disk has them."""
    chunk = np.random.default_rng(0).bytes(CHUNK_BYTES)
    started, size = time.perf_counter(), 0
    while size < LEAST_BYTES or (size + CHUNK_BYTES <= most_bytes and time.perf_counter() - started < budget_s):
        size += os.write(file, chunk)
        os.fsync(file)
    return size // CHUNK_BYTES * CHUNK_BYTES


def _drop(file: int) -> None:
    """Asks the system to forget the file's pages, which needs no permission but may be ignored."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _resident_share(pages: mmap.mmap) -> float:
    """Of a mapping's pages in memory; 1 where the system does not say."""
    view = np.frombuffer(pages, np.uint8)
    count = -(-len(pages) // mmap.PAGESIZE)
    resident = np.zeros(count, np.uint8)
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mincore"):
        return 1.0
    failed = libc.mincore(
        ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(pages)), ctypes.c_void_p(resident.ctypes.data)
    )
    return 1.0 if failed else float((resident & 1).mean())


def _read(data: np.ndarray) -> None:
    """On all threads, in the order of the file."""
    items = data.size // ITEM_BYTES
    sums = np.empty((items, 64), np.uint8)
    context = np.array([data.ctypes.data, sums.ctypes.data, ITEM_BYTES, 1])
    with team.LOCK:
        team.run([(read_task(), context.ctypes.data, items)], data.size)
