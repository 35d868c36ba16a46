"""Pages of mapped files that have been read and need not stay in memory."""

import ctypes
import mmap
import sys

_LETS_GO = 4  # MADV_DONTNEED


def let_go(first: int, last: int) -> None:
    """The whole pages of a file's mapping between two addresses are read again when they are needed."""
    if sys.platform != "linux":
        return
    first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _LETS_GO)
