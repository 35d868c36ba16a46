"""Continue a text and print the statistics."""

import argparse
import json
import sys
from pathlib import Path

from ..errors import PromptError
from .options import add_generation_options, add_load_options, generation_options, load_options
from .terminal import errors, load_with_progress, output, stream_all, summary


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="GGUF file or Hugging Face folder")
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", help="text to continue")
    prompt.add_argument("-f", "--file", help="file with the text to continue, - for standard input")
    command.add_argument("--explain", action="store_true", help="show why each step drafted as it did, on stderr")
    command.add_argument("--json", action="store_true", help="end with one line of JSON")
    add_generation_options(command)
    add_load_options(command)


def run(options: argparse.Namespace) -> None:
    prompt = options.prompt if options.file is None else _read(options.file)
    model = load_with_progress(options.model, **load_options(options))
    explain = (lambda line: errors.print(line, style="dim", soft_wrap=True)) if options.explain else None
    result = stream_all(model.generate(prompt, explain=explain, **generation_options(options)), mark=False)
    output.print()
    if options.json:
        print(json.dumps(result.as_json()), flush=True)
    else:
        errors.print(summary(result))


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read the prompt from {path!r}: {error}") from None
