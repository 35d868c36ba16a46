"""Texts that benchmarks run on: written for this package; long contexts are filled with its own sources.

Random tokens would be drafted and routed as no text is.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

from ..api import LanguageModel
from ..errors import OptionError

TASKS = ("code", "prose", "chat", "extraction")
LONGEST_TEXT = 400  # tokens of a text; a vocabulary of short tokens cuts the longer ones


@dataclass(frozen=True)
class Text:
    task: str
    token_ids: tuple[int, ...]


def corpus(model: LanguageModel, tasks: tuple[str, ...], depth: int = 0) -> list[Text]:
    """Prompts of these tasks, one of each in turn, behind so many tokens of other text.

    Raises:
        OptionError: an unknown task.
    """
    if wrong := [task for task in tasks if task not in TASKS]:
        raise OptionError(f"task {wrong[0]!r} is unknown; choose of {', '.join(TASKS)}")
    entries = json.loads((files("offload") / "benchmark" / "corpus.json").read_text(encoding="utf-8"))
    by_task = [[e for e in entries if e["task"] == task] for task in tasks]
    in_turn = [entry for turn in zip(*by_task, strict=True) for entry in turn]
    before = filler(model, depth)
    return [Text(e["task"], (*before, *model.tokenizer.encode(_as_prompt(model, e))[:LONGEST_TEXT])) for e in in_turn]


def filler(model: LanguageModel, num_tokens: int) -> tuple[int, ...]:
    """So many tokens of source code with its comments: this package's, file by file, again and again."""
    if not num_tokens:
        return ()
    sources = sorted((p for p in files("offload").iterdir() if p.name.endswith(".py")), key=lambda p: p.name)
    ids: list[int] = []
    while len(ids) < num_tokens:
        for source in sources:
            ids += model.tokenizer.encode(source.read_text(encoding="utf-8"))
            if len(ids) >= num_tokens:
                break
    return tuple(ids[:num_tokens])


def _as_prompt(model: LanguageModel, entry: dict[str, str]) -> str:
    """Chat texts as messages; the others are continued as they are."""
    if entry["task"] != "chat":
        return entry["text"]
    return model.chat_template.render([{"role": "user", "content": entry["text"]}])
