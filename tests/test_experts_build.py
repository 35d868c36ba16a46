"""Compiled kernels on disk: what differs never shares a file, so that processes cannot mix kernels up."""

import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit
from numba.core import caching

import experts
from experts import FORMATS, build, compiling, isa, kernels
from experts.build import KERNEL, build_key
from experts.products import strips

ROOT = Path(__file__).parent.parent
NAMES = ["F32:0:4", "F32:0:3", "F32:0:2", "F32:0:1"]


def test_different_kernels_have_different_files() -> None:
    """numba's index is not locked: with one index for all, racing processes file a kernel under another one's key."""
    for name in ("F32", "F16"):  # of the same geometry but for the bytes of a unit
        kernels.multiply_table(FORMATS[name], False, 2)
    made = {function.__wrapped__ for function in kernels._kept if function.__name__ == "multiply_rows"}
    closures = {cell.cell_contents for function in made for cell in function.__closure__}
    names = {caching.FunctionCache(function)._impl.filename_base for function in made}
    assert {1, 2, build_key(), "experts.blocks.f32:NATIVE", "experts.blocks.f16:NATIVE"} <= closures
    assert len(names) == len(made) >= 4


def test_what_is_cached_goes_by_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also functions without a key in their closure: they may call other modules."""
    before = caching.FunctionCache(strips.multiply_strips.py_func)._impl.locator.get_source_stamp()
    monkeypatch.setattr(build, "_sources", lambda: 1)
    after = caching.FunctionCache(strips.multiply_strips.py_func)._impl.locator.get_source_stamp()
    assert after == (*before[:-1], 1) != before


def test_a_function_of_another_package_is_filed_as_numba_does() -> None:
    """This module stands for the other package."""
    cache = caching.FunctionCache(test_a_function_of_another_package_is_filed_as_numba_does)
    assert "Apart" not in type(cache._impl.locator).__name__


@pytest.mark.parametrize(
    "error", [EOFError("Ran out of input"), IndexError("pop from empty list"), ImportError("no x")]
)
def test_a_disk_that_keeps_nothing_is_no_reason_not_to_run(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def damaged(*arguments: object) -> None:
        raise error  # of unpickling

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    with pytest.warns(UserWarning, match="cannot be kept or read there: No space left on device"):
        assert njit(lambda x: x + 1, **KERNEL)(1) == 2
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", lambda *arguments: None)
    monkeypatch.setattr(caching.IndexDataCacheFile, "load", damaged)
    with pytest.warns(UserWarning, match=f"cannot be kept or read there: {error}"):
        assert njit(lambda x: x + 2, **KERNEL)(1) == 3


HOMELESS = """
import warnings
import numba.core.caching as caching
caching.CompileResultCacheImpl._locator_classes = []  # numba finds no folder that can be written to
with warnings.catch_warnings(record=True) as caught:
    import offload.cli, offload.server
    import numpy
    from offload.sampling.noise import gumbel
print(numpy.isfinite(gumbel(1, 2, numpy.arange(9))).all(), [str(warning.message) for warning in caught])
"""


def test_without_any_folder_to_keep_kernels_they_are_compiled_again() -> None:
    """All kernels, of whichever package, and one warning."""
    command = [sys.executable, "-c", HOMELESS]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    ended = subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True, text=True)
    assert ended.stdout.startswith(f"True [\"neither {ROOT / 'experts'} nor the user's cache folder")
    assert ended.stdout.count("NUMBA_CACHE_DIR") == 1


RACE = """
import sys, time
import numba.core.caching as caching
from experts import FORMATS, kernels
ordinary = caching.IndexDataCacheFile._save_index
def slowly(self, overloads):  # the moment at which another process reads the index
    time.sleep(0.3)
    ordinary(self, overloads)
caching.IndexDataCacheFile._save_index = slowly
for m in map(int, sys.argv[1]):
    kernels.multiply(FORMATS["F32"], False, m)
"""


def test_processes_that_compile_at_once_keep_all_kernels(tmp_path: Path) -> None:
    """Two processes compile the same kernels in different orders, slowed down where numba's index would be lost."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RACE}"]
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    racing = [subprocess.Popen([*command, order], env=environment) for order in ("12", "21")]
    assert [process.wait(timeout=120) for process in racing] == [0, 0]
    data = [path.name for path in tmp_path.rglob("*multiply_rows*.nbc")]
    assert len(data) == len({name.split(".py")[0] for name in data}) == 2


def test_other_processes_help_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel of a format that is not ready yet goes to one helper, the last ones first."""
    commands = []

    class Helper:
        def __init__(self, command: list[str], **options: object) -> None:
            commands.append(command)

        def wait(self) -> None:
            commands.append(["waited"])

    compiled = iter([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    monkeypatch.setattr(compiling.subprocess, "Popen", Helper)
    monkeypatch.setattr(compiling.kernels, "num_compiled", lambda: next(compiled))
    monkeypatch.setattr(compiling.team, "num_threads", lambda: 3)
    steps = list(experts.preparing([(FORMATS["F32"], False)], 4))
    assert steps == [(done, 8 + len(NAMES)) for done in range(13)]  # what all formats share comes first
    assert [command[len(compiling.COMMAND) :] for command in commands[:2]] == [
        [isa.level(), *names] for names in (NAMES[::2], NAMES[1::2])
    ]
    assert commands[2:] == [["waited"], ["waited"]]


def test_no_kernels_are_made_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of many rows takes the kernels that any number of them from ANY_ROWS on takes."""
    asked: list[int] = []
    monkeypatch.setattr(compiling, "_table", lambda fmt, interleaved, m: asked.append(m))
    for rows in (compiling.ANY_ROWS, 24):
        asked.clear()
        experts.prepare([FORMATS["F32"]], rows)
        assert asked == list(range(1, compiling.ANY_ROWS + 1))


def test_what_a_helper_compiles_is_found(tmp_path: Path) -> None:
    """Also where the current folder holds another package of the same name, such as the sources of an installed one."""
    other = tmp_path / "here" / "experts"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the wrong one')")
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    helper = [*compiling.COMMAND, isa.level(), "F32:0:2"]
    subprocess.run(helper, env=environment, check=True, timeout=120, cwd=other.parent)
    check = "kernels.multiply(FORMATS['F32'], False, 2); print(kernels.num_compiled())"
    command = [sys.executable, "-c", f"from experts import FORMATS, isa, kernels; isa.force({isa.level()!r}); {check}"]
    found = subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True, text=True)
    assert found.stdout == "0\n"
