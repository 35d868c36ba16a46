"""What a compiled kernel depends on beside its own file, so that numba's cache on disk is never stale.

numba keys a cached function by its file, its bytecode and the values in its closure, but not by the other modules that
it calls and not by the vector level. Every kernel therefore carries the number `build_key()` in its closure. Functions
that are the same at every level go by the sources of this package alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from warnings import warn
from zlib import crc32

from numba import njit
from numba.core import caching

from experts import isa

INLINE = {"forceinline": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@cache
def _sources() -> int:
    """A number that changes with the sources of this package."""
    return crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))))


@cache
def build_key() -> int:
    """A number that changes with the sources of this package and with the vector level."""
    return crc32(isa.settle().encode(), _sources())


@njit(**INLINE)
def keyed(build: int) -> None:
    """Does nothing: mentioning the key in a kernel puts it into the closure."""


def _apart(locator: type[Any]) -> type[Any]:
    """A place for compiled kernels that goes by all sources of this package, and where each closure has its own files.

    numba keeps functions that differ by their closures under one index, which it reads and writes without a lock: two
    processes that compile at the same time would now and then file a kernel under the key of another one.
    """

    class Apart(locator):  # type: ignore[misc]
        def __init__(self, function: Any, path: str) -> None:
            super().__init__(function, path)
            values = [cell.cell_contents for cell in function.__closure__ or ()]
            self._closure = crc32(repr([value for value in values if isinstance(value, int | str)]).encode())

        def get_disambiguator(self) -> str:
            return f"{super().get_disambiguator()}-{self._closure:08x}"

        def get_source_stamp(self) -> Any:
            return *super().get_source_stamp(), _sources()

        @classmethod
        def from_function(cls, function: Any, path: str) -> Any:
            inside = Path(__file__).parent in Path(path).parents
            return super().from_function(function, path) if inside else None

    return Apart


@contextmanager
def _compiled_again(kept: Any) -> Iterator[None]:
    """What a full disk does not keep, or what is damaged there, is compiled again: no reason not to run."""
    try:
        yield
    except Exception as error:  # damaged bytes may spell anything, and unpickling them raise it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        warn(f"{kept.cache_path}: compiled kernels cannot be kept or read there: {reason}", stacklevel=4)


def _disk_cache() -> bool:
    """Whether compiled kernels can be kept: beside this package, or in the user's cache folder."""
    try:
        caching.FunctionCache(keyed.py_func)
    except RuntimeError:
        where = f"neither {Path(__file__).parent} nor the user's cache folder can be written to"
        warn(f"{where}: every start compiles all kernels; set NUMBA_CACHE_DIR to a folder that can be", stacklevel=2)
        return False
    return True


_locators = caching.CompileResultCacheImpl._locator_classes
caching.Cache._guard_against_spurious_io_errors = _compiled_again  # around every access
caching.CompileResultCacheImpl._locator_classes = [*map(_apart, _locators), *_locators]

KERNEL: dict[str, Any] = {"cache": _disk_cache(), "error_model": "numpy"}
