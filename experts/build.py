"""What a compiled kernel depends on beside its own file, so that numba's cache on disk is never stale.

numba keys a cached function by its file, its bytecode and the values in its closure, but not by the other modules that
it calls and not by the vector level. Every kernel therefore carries the number `build_key()` in its closure.
"""

from functools import cache
from pathlib import Path
from typing import Any
from warnings import warn
from zlib import crc32

from numba import njit
from numba.core.caching import FunctionCache

from experts import isa

INLINE = {"forceinline": True, "error_model": "numpy"}  # for pieces of kernels; only whole kernels are cached


@cache
def build_key() -> int:
    """A number that changes with the sources of this package and with the vector level."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return crc32(sources + isa.settle().encode())


@njit(**INLINE)
def keyed(build: int) -> None:
    """Does nothing: mentioning the key in a kernel puts it into the closure."""


def _disk_cache() -> bool:
    """Whether compiled kernels can be kept: beside this package, or in the user's cache folder."""
    try:
        FunctionCache(keyed.py_func)
    except RuntimeError as error:
        warn(f"compiled kernels cannot be kept on disk, every start compiles them again: {error}", stacklevel=2)
        return False
    return True


KERNEL: dict[str, Any] = {"cache": _disk_cache(), "error_model": "numpy"}
