"""What the commands show on a terminal: streams, marks, summaries. Text goes to stdout, all else to stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experts import num_compiled
from experts.build import KERNEL

from ..api import LanguageModel, load
from ..checkpoints.hub import local_path
from ..generation import Generation
from ..ledger import by_role
from ..result import Result, TokenEvent
from .live import LiveStats

output = Console(highlight=False)
errors = Console(stderr=True)

ACCEPTED_STYLE = "bold green underline"


def show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Takes the place of warnings.showwarning."""
    errors.print(f"[yellow]warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True)


def show_error(message: str) -> None:
    errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


def load_with_progress(path: str | Path, **options: Any) -> LanguageModel:
    """Loads a model and prepares its kernels, each behind a progress bar; says so if kernels had to be compiled.

    What is on the Hugging Face Hub is downloaded first, behind bars of its own.
    """
    path = local_path(path)
    options |= {name: local_path(options[name]) for name in ("draft_model", "mtp_model") if options.get(name)}
    with progress_bar(f"loading {path.name}") as progress:
        model = load(path, progress=progress, **options)
    for note in (f"layout {model.layout}", str(model.placed), *model.backend.notes()):
        errors.print(note, style="dim", markup=False, soft_wrap=True)
    started, before = time.perf_counter(), num_compiled()
    with progress_bar("preparing kernels") as progress:
        model.warm_up(progress)
    show_compiled(num_compiled() - before, time.perf_counter() - started)
    return model


def show_compiled(num_kernels: int, seconds: float) -> None:
    """Says why it took so long, if kernels had to be compiled."""
    if num_kernels:
        later = "; the next start finds them on disk" if KERNEL["cache"] else ""
        errors.print(f"[dim]compiled {num_kernels} kernels in {seconds:.1f} s{later}")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes away when it is done, and the function that moves it: (steps done, steps in all)."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write(text: str, style: str | None = None) -> None:
    """Text as it is; with a style, what a terminal can show of it."""
    if style is None:
        output.file.write(text)
    else:
        output.print(text, style=style, end="", markup=False, soft_wrap=True)


def stream(generation: Generation, mark: bool) -> Iterator[TokenEvent]:
    """Writes each token as it comes, accepted drafts marked if asked for, and passes it on."""
    for event in generation:
        write(event.text, ACCEPTED_STYLE if mark and event.drafted else None)
        output.file.flush()
        yield event


def stream_all(
    generation: Generation,
    mark: bool,
    live: LiveStats | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Result:
    """Writes all of it, or up to where `is_stopped`, with a live line of statistics if there is one."""
    with live or nullcontext():
        for _ in stream(generation, mark):
            if live:
                live.update(generation.result)
            if is_stopped():
                break
    return generation.result


def summary(result: Result) -> Table:
    """Speed, acceptance and reuse of one generation."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    by_position = ", ".join(f"{share:.0%}" for share in result.acceptance.by_position) or "no drafts"
    rows = (
        ("prompt", f"{result.prompt_tokens} tokens, {result.prompt_tokens_per_s:.0f} tokens/s"),
        (
            "decode",
            f"{len(result.tokens)} tokens in {result.reuse.steps + 1} steps, {result.decode_tokens_per_s:.1f} tokens/s",
        ),
        ("drafts", f"{result.acceptance.accepted} of {result.acceptance.drafted} accepted; by position: {by_position}"),
        (
            "experts",
            f"{result.reuse.experts_per_step:.1f} distinct a layer and step, {result.reuse.reuse:.0%} of uses reused",
        ),
        ("bandwidth", f"{result.gb_per_s:.2f} GB/s of weights and cache read while decoding"),
    )
    for name, value in rows:
        table.add_row(name, value, style="dim")
    if result.emulated_tokens_per_s:
        emulated = f"{result.emulated_tokens_per_s:.1f} tokens/s with that card and this processor"
        table.add_row("emulated", emulated, style="dim")
    if result.bytes_crossed:
        roles = (f"{role} {sum(ways.values()):,}" for role, ways in by_role(result.bytes_crossed).items())
        table.add_row("crossed", f"bytes between accelerator and CPU: {', '.join(roles)}", style="dim")
    return table
