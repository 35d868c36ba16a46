"""Builds or loads kernels before they are needed, with the help of other processes where they have to be compiled.

numba compiles one function at a time in a process, about a second for a kernel of a format. Other processes therefore
begin at the end of the list and leave what they compile in the cache on disk, where this one finds it. Every kernel has
files of its own there, so it does no harm if two processes make the same one.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from experts import isa, kernels
from experts.build import KERNEL
from experts.formats import EXPANDED, FORMATS, Format
from experts.plans import tasks
from experts.plans.grouping import sort_task
from experts.products.frame import MAX_ROWS
from experts.threads import team

_MOST_HELPERS = 7
ANY_ROWS = MAX_ROWS + 1  # of a product: from here on all take the same kernels
_PROGRAM = "import sys; from experts.compiling import compile_kernels; compile_kernels(sys.argv[1], sys.argv[2:])"
COMMAND = [sys.executable, "-P", "-c", _PROGRAM]  # -P: not a package of this name that lies in the current folder


def prepare(formats: Sequence[Format], rows: int = ANY_ROWS, interleaved: bool = False) -> None:
    """Builds or loads the kernels for products with up to `rows` rows, so that no later call waits for them."""
    for _ in preparing([(fmt, interleaved) for fmt in formats], rows):
        pass


def preparing(kinds: Sequence[tuple[Format, bool]], rows: int = ANY_ROWS) -> Iterator[tuple[int, int]]:
    """The steps of `prepare`, for callers that show how far it is.

    Args:
        kinds: Formats, and whether they are interleaved.
        rows: The most rows of a product; from ANY_ROWS on there are no further kernels.

    Yields:
        Kernels that are ready, and kernels in all.
    """
    of_formats = [(*kind, m) for kind in kinds for m in range(1, min(rows, ANY_ROWS) + 1)]
    others: list[Callable[[], int]] = [tasks.rows_task, tasks.products_task, tasks.chain_task, tasks.total_task]
    others += [tasks.swiglu_task, tasks.mixture_task, sort_task]
    others += [partial(kernels.encoder, encoding) for encoding in dict.fromkeys(fmt.activation for fmt, _ in kinds)]
    steps = others + [partial(_table, *one) for one in of_formats]
    before = kernels.num_compiled()
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        for done, step in enumerate(steps):
            yield done, len(steps)
            step()
            if not helpers and kernels.num_compiled() > before:  # they were not on disk
                helpers = _helpers(of_formats[max(0, done + 1 - len(others)) :])
        yield len(steps), len(steps)
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    finally:
        for helper in helpers:
            helper.wait()


def _table(fmt: Format, interleaved: bool, m: int) -> int:
    return kernels.strips_table(fmt, interleaved) if m == ANY_ROWS else kernels.multiply_table(fmt, interleaved, m)


def _helpers(missing: list[tuple[Format, bool, int]]) -> list["subprocess.Popen[bytes]"]:
    """Starts processes that compile these kernels from the last one backwards, each its share."""
    count = min(team.num_threads() - 1, _MOST_HELPERS, len(missing) // 2) if KERNEL["cache"] else 0
    names = [f"{fmt.name}:{int(interleaved)}:{m}" for fmt, interleaved, m in reversed(missing)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    command = [*COMMAND, isa.level()]
    return [
        subprocess.Popen(
            command + names[i::count],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is ours to pass on
        )
        for i in range(count)
    ]


def compile_kernels(level: str, names: Sequence[str]) -> None:
    """What a helper does, until whom it helps has ended; the names are FORMAT:INTERLEAVED:ROWS."""
    isa.force(level)
    parent = os.getppid()
    formats = FORMATS | {fmt.name: fmt for fmt in EXPANDED.values()}
    for name in names:
        if os.getppid() != parent:
            return
        fmt, interleaved, m = name.split(":")
        build = kernels.strips_table if int(m) == ANY_ROWS else partial(kernels.multiply, m=int(m))
        build(formats[fmt], interleaved == "1")
