"""Continue a text and print the statistics."""

import argparse
import json
import sys

from ..errors import PromptError
from ..sampling import Grammar
from .files import read_text
from .live import live_stats
from .options import MODEL, add_generation_options, add_load_options, check_generation, generation_options, load_options
from .terminal import errors, load_with_progress, output, stream_all, summary


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=MODEL)
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", help="text to continue")
    prompt.add_argument("-f", "--file", help="file with the text to continue, - for standard input")
    command.add_argument("--explain", action="store_true", help="show why each step drafted as it did, on stderr")
    command.add_argument("--json", action="store_true", help="end with one line of JSON")
    grammar = command.add_mutually_exclusive_group()
    grammar.add_argument(
        "--json-schema", metavar="SCHEMA", help="file with a JSON schema, or its text: what to generate"
    )
    grammar.add_argument("--grammar", metavar="FILE", help="Lark grammar of what to generate")
    command.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities of each token and the N best ones"
    )
    command.add_argument("--stats", action="store_true", help="show a live line of speed, drafts and bandwidth")
    add_generation_options(command)
    add_load_options(command)


def run(options: argparse.Namespace) -> None:
    check_generation(options)
    prompt = _prompt(options)
    more = {"grammar": _grammar(options), "logprobs": options.logprobs}
    model = load_with_progress(options.model, **load_options(options))
    explain = (lambda line: errors.print(line, style="dim", markup=False, soft_wrap=True)) if options.explain else None
    live = live_stats() if options.stats else None
    generation = model.generate(prompt, explain=explain, **more, **generation_options(options))
    result = stream_all(generation, mark=False, live=live)
    output.print()
    if options.json:
        print(json.dumps(result.as_json()), flush=True)
    else:
        errors.print(summary(result))


def _grammar(options: argparse.Namespace) -> Grammar | None:
    """What the text has to look like, if anything says so."""
    if options.json_schema is not None:
        is_text = options.json_schema.lstrip().startswith("{")
        return Grammar.json_schema(options.json_schema if is_text else read_text(options.json_schema, "JSON schema"))
    return None if options.grammar is None else Grammar.lark(read_text(options.grammar, "grammar"))


def _prompt(options: argparse.Namespace) -> str:
    """The text to continue, once it is there and is one."""
    prompt: str = options.prompt if options.file is None else read_text(options.file, "prompt", PromptError)
    if not prompt:
        raise PromptError("the prompt is empty: write something to continue")
    try:
        prompt.encode()
    except UnicodeEncodeError:  # bytes that the terminal's encoding does not know
        encoding = sys.getfilesystemencoding()
        advice = "write it in that" if encoding == "utf-8" else "set PYTHONUTF8=1"
        raise PromptError(f"the prompt is no text in {encoding}: {advice}") from None
    return prompt
