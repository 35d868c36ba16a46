"""Memory stays flat: over generations, and within a step as the text grows. The long version is `tools.soak`."""

import gc
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

import experts
import offload

SETTINGS: tuple[dict[str, Any], ...] = (
    {"draft": 0, "temperature": 0},
    {"draft": 2, "repetition_penalty": 1.1, "stop": ["\n\n\n\n\n"]},
    {"draft": 2, "drafter": "ngram"},
)


@pytest.fixture
def traced() -> Iterator[None]:
    """On one thread, so that what is allocated does not depend on who is how far."""
    threads = experts.num_threads()
    experts.set_threads(1)
    tracemalloc.start()
    yield
    tracemalloc.stop()
    experts.set_threads(threads)


@pytest.mark.usefixtures("traced")
def test_generations_leave_nothing_behind(tiny: offload.LanguageModel) -> None:
    def generations(count: int) -> int:
        steps = 0
        for seed in range(count):
            for settings in SETTINGS:
                result = tiny.generate("def f(self):\n", max_tokens=24, seed=seed, **settings).finish()
                steps += result.reuse.steps
        return steps

    generations(3)
    held = []
    for _ in range(4):
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        assert generations(5) > 150
    # what leaks does so in every round; what other threads of the process keep does not
    assert min(after - before for before, after in pairwise(held)) < 16_384


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_step_allocates_no_more_in_a_long_text(tiny: offload.LanguageModel, settings: dict[str, Any]) -> None:
    never_end = dict.fromkeys(tiny.tokenizer.end_of_generation, float("-inf"))
    text = tiny.tokenizer.encode("    def push(self, item):\n        self.items.append(item)\n\n")

    def most_for_a_step(prompt: list[int]) -> int:
        """The largest amount that a step needs beside what there was before it, once the prompt has been read."""
        transient, before = [], 0
        for _ in tiny.generate(prompt, max_tokens=24, logit_bias=never_end, **settings):
            now, peak = tracemalloc.get_traced_memory()
            transient.append(peak - before)
            tracemalloc.reset_peak()
            before = now
        return max(transient[8:])

    short, long = most_for_a_step(text), most_for_a_step((text * 200)[:2000])
    assert long - short < 4096  # a copy of 2000 tokens would be 16000 bytes
