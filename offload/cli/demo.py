"""Run the tiny trained GLM that ships with the package: with drafts, then without, and compare."""

import argparse
from importlib.resources import as_file, files

from ..api import AUTO
from ..request import GenerationRequest
from ..sampling import SamplingParams
from .options import add_load_options, draft_length, load_options
from .terminal import ACCEPTED_STYLE, load_with_progress, output, summary, write

PROMPTS = (
    ("code", "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"),
    ("prose", "It was a fine evening, and the family were sitting together in the drawing-room, when"),
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--max-tokens", type=int, default=120, help="of each text")
    command.add_argument("--temperature", type=float, default=0.6, help="0 takes the most probable token")
    command.add_argument("--draft", type=draft_length, default=AUTO, metavar="N", help="tokens drafted a step")
    add_load_options(command)


def run(options: argparse.Namespace) -> None:
    settings = {"max_tokens": options.max_tokens, "draft": options.draft}
    sampling = {"temperature": options.temperature, "seed": 3}
    GenerationRequest((), sampling=SamplingParams(**sampling), **settings)  # refused before anything is loaded
    with as_file(files("offload") / "models" / "tiny-glm.gguf") as path:
        model = load_with_progress(path, **load_options(options))
        output.print(
            f"Text of a small GLM, trained on code and prose. Accepted drafts look [{ACCEPTED_STYLE}]like this[/]."
        )
        for kind, prompt in PROMPTS:
            output.rule(kind)
            output.print(prompt, style="dim", end="", markup=False)
            generation = model.generate(prompt, **settings, **sampling)
            events, result = list(generation), generation.result  # shown later: both runs do nothing but run
            plain = model.generate(prompt, **settings | sampling | {"draft": 0}).finish()
            for event in events:
                write(event.text, ACCEPTED_STYLE if event.drafted else None)
            output.print("\n")
            output.print(summary(result))
            same = "the same tokens" if plain.tokens == result.tokens else "[bold red]DIFFERENT TOKENS[/]"
            output.print(
                f"[dim]without drafts: {same}, {plain.reuse.steps + 1} steps, {plain.decode_tokens_per_s:.1f} tokens/s"
            )
