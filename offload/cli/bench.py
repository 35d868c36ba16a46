"""Measure prompts and decoding on texts, as a share of the machine's ceiling; the last line is one JSON document."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ..benchmark.corpus import TASKS
from ..benchmark.peer import PEERS, check_peer
from ..benchmark.plots import plot
from ..benchmark.report import report
from ..benchmark.run import Settings
from ..benchmark.run import run as measure
from ..checkpoints.hub import local_path
from ..hardware import find_hardware
from ..hardware.store import rounded
from ..plotting import check_plot, write_plot
from .options import MODEL, add_load_options, draft_length, load_options
from .terminal import errors, load_with_progress, output, progress_bar

T = TypeVar("T")


def add_arguments(command: argparse.ArgumentParser) -> None:
    default = Settings()
    command.add_argument("model", type=Path, help=MODEL)
    group = command.add_argument_group("what is measured")
    group.add_argument("--prompts", type=_listed(int), default=default.prompts, metavar="N,M", help="prompt lengths")
    group.add_argument(
        "--depths", type=_listed(int), default=default.depths, metavar="N,M", help="tokens before a text"
    )
    group.add_argument(
        "--drafts", type=_listed(draft_length), default=default.drafts, metavar="N,auto", help="drafted a step"
    )
    group.add_argument("--sequences", type=_listed(int), default=default.sequences, metavar="N,M", help="run at once")
    group.add_argument("--tasks", type=_listed(str), default=TASKS, metavar="A,B", help=f"of {', '.join(TASKS)}")
    group.add_argument("-n", "--tokens", type=int, default=default.tokens, help="generated in each sequence")
    group.add_argument("--rounds", type=int, default=default.rounds, help="that count, one more before")
    group.add_argument("--peer", choices=PEERS, help="run this on the same file and texts too")
    group.add_argument("--hardware", metavar="FILE|PRESET", help="profile that the ceiling is from; the kept one")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .png, .svg or .html")
    add_load_options(command)


def run(options: argparse.Namespace) -> None:
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    if options.plot:
        check_plot(options.plot)
    if settings.peer:
        check_peer(settings.peer)
    found = find_hardware(options.hardware)
    for note in found.notes if found else ():
        errors.print(f"[yellow]warning:[/] the profile: {note}", soft_wrap=True)
    arguments = load_options(options) | {"slots": settings.slots}
    arguments["context"] = arguments["context"] or settings.context
    path = local_path(options.model)
    model = load_with_progress(path, **arguments)
    with progress_bar("measuring") as bar:
        command = shlex.join(["moe-offload", *sys.argv[1:]])
        measured = measure(model, path, settings, command, found, lambda what, done, total: bar(done, total))
    document = rounded(measured)
    output.print(report(document))
    print(json.dumps(document), flush=True)
    if options.plot:  # last: what was measured is not lost where the picture cannot be written
        write_plot(plot(document), options.plot)


def _listed(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1,4") from None

    return parse
