"""Memory for large copies of weights, in huge pages where the system has them."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fresh_memory(num_bytes: int, huge_pages: bool = True) -> NDArray[np.uint8]:
    """Pages that nobody has touched yet, uint8; without `huge_pages` small ones, as mapped files have."""
    # Python's default are shared pages, which Linux makes huge only where an administrator asks for that.
    private: dict[str, Any] = {}
    if hasattr(mmap, "MAP_PRIVATE"):
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    pages = mmap.mmap(-1, num_bytes, **private)
    name = "MADV_HUGEPAGE" if huge_pages else "MADV_NOHUGEPAGE"
    if hasattr(mmap, name):
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(getattr(mmap, name))
    return np.frombuffer(pages, np.uint8)
