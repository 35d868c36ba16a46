"""Write a model as one GGUF file, quantized if asked for."""

import argparse
import signal
import time
from pathlib import Path
from typing import NoReturn

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..backends.processor import use_processor
from ..checkpoints.convert import convert
from .options import add_processor_options, add_quantize_options
from .terminal import errors, output


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="Hugging Face folder or GGUF file")
    command.add_argument("target", type=Path, help="GGUF file to write")
    add_quantize_options(command)
    add_processor_options(command)


def run(options: argparse.Namespace) -> None:
    use_processor(options.isa, options.threads, options.pin)
    started = time.perf_counter()
    before = signal.signal(signal.SIGTERM, _interrupted)  # nothing half done is left then either
    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("converting", total=None)
            formats = convert(
                options.model,
                options.target,
                options.quantize,
                options.mtp_quantize,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    size, seconds = options.target.stat().st_size, time.perf_counter() - started
    listed = ", ".join(f"{name} x {count}" for name, count in formats.items())
    output.print(f"{options.target.name}: {size / 1e9:.2f} GB in {seconds:.1f} s: {listed}")


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
