"""Write a copy of a model whose experts are interleaved, which later starts map as it is."""

import argparse
import time
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..backends.processor import use_processor
from ..checkpoints.hub import local_path
from ..checkpoints.pack import pack
from .options import add_processor_options
from .terminal import errors, output


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="GGUF file, any part of a split one, or -hf USER/REPO[:QUANT]")
    command.add_argument("target", type=Path, help="file to write; as large as the model")
    add_processor_options(command)


def run(options: argparse.Namespace) -> None:
    use_processor(options.isa, options.threads, options.pin)
    model, started = local_path(options.model), time.perf_counter()
    columns = (TextColumn("packing"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("packing", total=None)
        written = pack(model, options.target, lambda done, total: bar.update(task, completed=done, total=total))
    size = sum(path.stat().st_size for path in written)
    names = ", ".join(path.name for path in written)
    output.print(f"{names}: {size / 1e9:.2f} GB in {time.perf_counter() - started:.1f} s")
