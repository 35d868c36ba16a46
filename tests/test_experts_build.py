"""Compiled kernels on disk: what differs never shares a file, so that processes cannot mix kernels up."""

import subprocess
import sys
from pathlib import Path

from numba.core import caching

from experts import FORMATS, kernels
from experts.build import build_key

ROOT = Path(__file__).parent.parent


def test_kernels_for_different_rows_have_different_files() -> None:
    """numba's index is not locked: with one index for all, racing processes file a kernel under another one's key."""
    kernels.multiply_table(FORMATS["F32"], False, 2)
    made = [function.__wrapped__ for function in kernels._kept if function.__name__ == "multiply_f32"]
    closures = {cell.cell_contents for function in made for cell in function.__closure__}
    names = {caching.FunctionCache(function)._impl.filename_base for function in made}
    assert {1, 2, build_key()} <= closures
    assert len(names) == len(made) >= 2


def test_a_function_of_another_package_is_filed_as_numba_does() -> None:
    """This module stands for the other package."""
    cache = caching.FunctionCache(test_a_function_of_another_package_is_filed_as_numba_does)
    assert "Apart" not in type(cache._impl.locator).__name__


RACE = """
import sys, time
import numba.core.caching as caching
from experts import FORMATS, kernels
from experts.build import build_key
ordinary = caching.IndexDataCacheFile._save_index
def slowly(self, overloads):  # the moment at which another process reads the index
    time.sleep(0.3)
    ordinary(self, overloads)
caching.IndexDataCacheFile._save_index = slowly
for m in map(int, sys.argv[1]):
    kernels._blocks("F32").make_multiply(m, build_key())
"""


def test_processes_that_compile_at_once_keep_all_kernels(tmp_path: Path) -> None:
    """Two processes compile the same kernels in different orders, slowed down where numba's index would be lost."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RACE}"]
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    racing = [subprocess.Popen([*command, order], env=environment) for order in ("12", "21")]
    assert [process.wait(timeout=120) for process in racing] == [0, 0]
    data = [path.name for path in tmp_path.rglob("*multiply_f32*.nbc")]
    assert len(data) == len({name.split(".py")[0] for name in data}) == 2
