"""Requests to a serving loop, and a look at its steps, for tests."""

from dataclasses import dataclass
from typing import Any

import pytest

import offload
from offload.sampling import SamplingParams
from offload.serving import GenerationRequest, ServingLoop

PROMPTS = ("def fib(n):", "It was a fine evening", "class Stack:\n    def __init__", "import os\n")


def request(
    model: offload.LanguageModel, prompt: str | list[int] = PROMPTS[0], seed: int = 0, **arguments: Any
) -> GenerationRequest:
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    never_end = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    sampling = SamplingParams(temperature=arguments.pop("temperature", 0.8), seed=seed, logit_bias=never_end)
    return GenerationRequest(ids, sampling=sampling, **arguments)


@dataclass
class WatchedStep:
    sequences: list[Any]
    waiting: list[int]  # tokens that each had not computed: 1 while it is generated
    computed: list[int]
    outcomes: list[Any]

    @property
    def prompt_rows(self) -> int:
        return sum(n for n, waiting in zip(self.computed, self.waiting, strict=True) if waiting > 1)


def watched_steps(loop: ServingLoop, monkeypatch: pytest.MonkeyPatch) -> list[WatchedStep]:
    """The steps of the loop's engine, as they are done."""
    steps: list[WatchedStep] = []
    step = loop._batch.engine.step

    def watched(sequences: list[Any]) -> Any:
        before = [s.num_cached for s in sequences]
        waiting = [len(s.token_ids) - s.num_cached for s in sequences]
        done = step(sequences)
        computed = [s.num_cached - n for s, n in zip(sequences, before, strict=True)]
        steps.append(WatchedStep(list(sequences), waiting, computed, done.outcomes))
        return done

    monkeypatch.setattr(loop._batch.engine, "step", watched)
    return steps
