"""Settings drawn at random, many requests at once, some cancelled: each answer is what it is plain and alone.

`python tests/test_offload_stress.py SECONDS` goes on from other seeds for so long.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offload
from offload.request import GenerationRequest
from offload.result import Result
from offload.sampling import Grammar, SamplingParams

TEXTS = (
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n\ndef fib(n):\n",
    "It was a fine evening, and the family were sitting together in the drawing-room, when",
    "1, 2, 3, 1, 2, 3, 1, 2,",
)
STOPS = ("e", "\n", " the", "th", "zzz")
GRAMMARS = (
    Grammar.regex("[a-z ]*"),
    Grammar.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    Grammar.lark('start: ("x" | "yy" | "xyz")+'),
)
CONTEXT = 192


def drawn(rng: np.random.Generator, model: offload.LanguageModel) -> GenerationRequest:
    """A request; prompts share beginnings, as those of conversations do."""

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    ids = model.tokenizer.encode(one_of(*TEXTS))[: int(rng.integers(1, 60))]
    ids += [int(token) for token in rng.integers(0, 256, rng.integers(0, 9))] if rng.random() < 0.5 else []
    sampling = SamplingParams(
        temperature=one_of(0.0, 0.0, 0.7, 1.3),
        top_k=one_of(0, 5, 40),
        top_p=one_of(0.5, 0.95, 1.0),
        min_p=one_of(0.0, 0.05),
        repetition_penalty=one_of(1.0, 1.0, 1.3),
        presence_penalty=one_of(0.0, 0.0, 0.5),
        frequency_penalty=one_of(0.0, 0.0, -0.5),
        penalty_last_n=one_of(1, 64),
        seed=int(rng.integers(1 << 32)),
        logit_bias=one_of({}, dict.fromkeys(model.tokenizer.end_of_generation, float("-inf")), {5: 3.0}),
        logprobs=one_of(None, 2),
    )
    return GenerationRequest(
        ids,
        max_tokens=int(rng.integers(1, 40)),
        stop=one_of((), (), (one_of(*STOPS),), STOPS[:3]),
        sampling=sampling,
        draft=one_of(0, 1, 2, 5, "auto"),
        drafter=one_of("auto", "mtp", "ngram", "none"),
        grammar=one_of(None, None, *GRAMMARS),
    )


def plain(model: offload.LanguageModel, request: GenerationRequest) -> Result:
    """The same request without drafts, alone, its prompt read from the beginning."""
    model.slots.forget()
    loop = model.serve()
    result = loop.submit(replace(request, draft=0, drafter="none")).finish()
    loop.close()
    return result


def check(alone: offload.LanguageModel, crowded: offload.LanguageModel, seed: int) -> int:
    """Some requests at once, against each alone; how many drafts were accepted."""
    rng = np.random.default_rng(seed)
    requests = [drawn(rng, crowded) for _ in range(rng.integers(1, 7))]
    cancelled_after = [int(rng.integers(0, 20)) if rng.random() < 0.2 else None for _ in requests]
    loop = crowded.serve()
    answers = [loop.submit(request) for request in requests]
    for answer, after in zip(answers, cancelled_after, strict=True):
        if after is not None:
            for number, _ in enumerate(answer):
                if number >= after:
                    answer.cancel()
    results = [answer.finish() for answer in answers]
    loop.close()
    for request, after, found in zip(requests, cancelled_after, results, strict=True):
        expected, count = plain(alone, request), len(found.tokens)
        whole = after is None or found.finish_reason != "cancelled"
        assert found.tokens == expected.tokens[: None if whole else count], (seed, request)
        assert found.logprobs == expected.logprobs[: None if whole else count], (seed, request)
        if whole:
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason), (seed, request)
        else:
            assert expected.text.startswith(found.text), (seed, request)
    return sum(result.acceptance.accepted for result in results)


KINDS = (("f32", 1, 1), ("f16", 2, 3), ("bf16", 3, 16), ("q8_0", 4, 64))  # cache, slots, chunk of a prompt


def pair(path: Path, cache: str, slots: int, chunk: int) -> tuple[offload.LanguageModel, offload.LanguageModel]:
    alone = offload.load(path, cache_type=cache, context=CONTEXT, layout="native")
    return alone, offload.load(
        path, cache_type=cache, context=CONTEXT, slots=slots, chunk_size=chunk, layout="interleaved"
    )


@pytest.mark.parametrize(("cache", "slots", "chunk"), KINDS)
def test_any_settings_give_the_text_of_none(glm_path: Path, cache: str, slots: int, chunk: int) -> None:
    models = pair(glm_path, cache, slots, chunk)
    assert sum(check(*models, seed) for seed in range(4)) > 0


def test_the_trained_model_too(tiny_path: Path) -> None:
    models = pair(tiny_path, "f16", 3, 32)
    assert sum(check(*models, seed) for seed in range(100, 103)) > 10


def test_bytes_are_those_of_the_text_alone(glm_path: Path) -> None:
    """Read in chunks of any size or found in the cache: the prompt changes nothing of what decoding reads."""
    ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
    found = set()
    for chunk in (1, 4, 512):
        model = offload.load(glm_path, context=CONTEXT, chunk_size=chunk)
        for _ in range(2):  # the second finds it in its slot
            result = model.generate(ids, max_tokens=20, draft=0, temperature=0).finish()
            found.add((tuple(result.tokens), result.decode_bytes))
    assert len(found) == 1


if __name__ == "__main__":
    import sys
    import tempfile
    import time

    from glm_files import random_glm

    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(offload.__file__).parent / "models" / "tiny-glm.gguf"
        small = random_glm().file.write(Path(folder) / "glm.gguf")
        pairs = [pair(path, *kind) for path in (small, tiny) for kind in KINDS]
        until, seed, accepted = time.monotonic() + float(sys.argv[1]), 1000, 0
        while time.monotonic() < until:
            for models in pairs:
                accepted += check(*models, seed)
            seed += 1
        print(f"{(seed - 1000) * len(pairs)} rounds, {accepted} drafts accepted, every text the same")
