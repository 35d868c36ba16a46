"""Measure what memory, links, disk and kernels of this machine deliver, and keep it for plans and for the scheduler."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from experts import FORMATS, num_compiled

from ..backends.processor import use_processor
from ..errors import HardwareError, OptionError
from ..hardware import Hardware, find_hardware, store, write_hardware
from ..hardware.store import as_text, check_writable
from ..plotting import check_plot, write_plot
from ..profiling import meaning
from ..profiling import profile as profiling
from ..profiling.profile import Profile, Scope
from ..profiling.report import report
from .options import add_processor_options
from .terminal import errors, output, progress_bar, show_compiled

REPORT_S = 1.5  # what the tables behind the measurement take, and the end of the process


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quick", action="store_true", help="10 seconds instead of 90: three formats, fewer repeats")
    command.add_argument("--output", type=Path, metavar="FILE", help="where it is kept; the user's cache folder")
    command.add_argument("--show", metavar="FILE|PRESET", help="show a profile, measure nothing; . for the kept one")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw it too: .png, .svg or .html")
    command.add_argument("--json", action="store_true", help="end with the profile as JSON on standard output")
    command.add_argument("--formats", type=_formats, metavar="A,B", help="of weights to measure; the common ones")
    command.add_argument("--disk", type=Path, metavar="FOLDER", help="whose disk is read; the user's cache folder")
    command.add_argument("--no-disk", action="store_true", help="leave the disk out")
    command.add_argument("--no-accelerators", action="store_true", help="leave accelerators out")
    add_processor_options(command)


def run(options: argparse.Namespace) -> None:
    if options.plot:
        check_plot(options.plot)
    if options.show:
        hardware, notes = _kept(options.show)
        path = store.user_path()
    else:
        path = options.output or store.user_path()
        check_writable(path)
        use_processor(options.isa, options.threads, options.pin)
        hardware, notes = _measured(_scope(options, path))
    output.print(report(hardware, notes))
    if not options.show:
        write_hardware(hardware, path)
        errors.print(f"kept in {path}", style="dim", markup=False, soft_wrap=True)
    output.print(meaning.table(meaning.meanings(_name(options, path))))
    if options.json:
        print(as_text(hardware, indent=None), end="", flush=True)
    if options.plot:  # last: what was measured is not lost where the picture cannot be written
        from ..profiling.plots import plot

        write_plot(plot(hardware), options.plot)


def _formats(text: str) -> list[str]:
    names = list(FORMATS) if text == "all" else text.split(",")
    if wrong := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(wrong)}; choose of {', '.join(FORMATS)}, or all")
    return names


def _kept(name: str) -> tuple[Hardware, list[str]]:
    found = find_hardware(None if name == "." else name)
    if found is None:
        raise HardwareError(f"there is no profile at {store.user_path()} yet: run moe-offload profile")
    return found.hardware, list(found.notes)


def _name(options: argparse.Namespace, path: Path) -> str:
    """Of the profile that is shown, or was just kept."""
    return str(path) if options.show in (None, ".") else str(options.show)


def _scope(options: argparse.Namespace, path: Path) -> Scope:
    scope = profiling.QUICK if options.quick else Scope()
    folder = None if options.no_disk else options.disk or path.resolve().parent
    if options.disk and not options.disk.is_dir():
        raise OptionError(f"--disk {options.disk}: there is no such folder")
    devices = () if options.no_accelerators else None
    return replace(scope, disk_folder=folder, devices=devices, formats=options.formats or scope.formats)


def _measured(scope: Scope) -> tuple[Hardware, list[str]]:
    """The scope's seconds are those of the whole command, but for kernels that have to be compiled."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    started, before = time.perf_counter(), num_compiled()
    with progress_bar("preparing kernels") as bar:
        profile = Profile(scope)
        for done, total in profile.prepare():
            bar(done, total)
    prepare_s, compiled = time.perf_counter() - started, num_compiled() - before
    show_compiled(compiled, prepare_s)
    around_s = time.time() - psutil.Process().create_time() - (prepare_s if compiled else 0.0) + REPORT_S
    profile.scope = replace(scope, seconds=scope.seconds - min(max(around_s, 0.0), scope.seconds / 2))
    with Progress(*columns, console=errors, transient=True) as shown:
        task = shown.add_task("measuring", total=1.0)
        profile.progress = lambda what, done: shown.update(task, description=what, completed=done)
        hardware = profile.run()
    for reason in hardware.busy.reasons:
        errors.print(f"[yellow]warning:[/] {reason}", soft_wrap=True)
    return hardware, profile.notes
