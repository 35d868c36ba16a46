"""Several requests at once: each gets what it gets alone, and none can hurt, starve or outlive another."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import offload
from offload.errors import Closing, ContextFull, EngineFailed, OptionError, QueueFull
from offload.sampling import SamplingParams
from offload.serving import Answer, GenerationRequest, ServingLoop

PROMPTS = ("def fib(n):", "It was a fine evening", "class Stack:\n    def __init__", "import os\n")


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> offload.LanguageModel:
    return offload.load(tiny_path, slots=4, chunk_size=32, context=512)


@pytest.fixture
def loop(model: offload.LanguageModel) -> Iterator[ServingLoop]:
    loop = model.serve(max_waiting=4)
    yield loop
    loop.close()


def request(
    model: offload.LanguageModel, prompt: str | list[int] = PROMPTS[0], seed: int = 0, **arguments: Any
) -> GenerationRequest:
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    never_end = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    sampling = SamplingParams(temperature=arguments.pop("temperature", 0.8), seed=seed, logit_bias=never_end)
    return GenerationRequest(ids, sampling=sampling, **arguments)


MIXES: tuple[tuple[dict[str, Any], ...], ...] = (
    tuple({"draft": 2, "temperature": t} for t in (0, 0.8, 0, 0.8)),
    (
        {"draft": 0, "temperature": 0.8},
        {"draft": 3, "drafter": "mtp", "temperature": 0},
        {"draft": 2, "drafter": "ngram", "temperature": 0},
        {"draft": 1, "temperature": 0.8},
    ),
    (
        {"draft": "auto", "temperature": 0},
        {"draft": 12, "temperature": 0.8},
        {"draft": "auto", "drafter": "ngram", "temperature": 0.8},
        {"draft": 0, "temperature": 0},
    ),
)


@pytest.mark.parametrize("mix", MIXES)
def test_each_answer_is_what_it_is_alone(model: offload.LanguageModel, mix: tuple[dict[str, Any], ...]) -> None:
    """Tokens, text, and with fixed lengths the acceptance too: nothing of a draft depends on who is beside."""
    requests = [request(model, p, i, max_tokens=40, **s) for i, (p, s) in enumerate(zip(PROMPTS, mix, strict=True))]
    alone = []
    for r in requests:
        lonely = model.serve()
        alone.append(lonely.submit(r).finish())
        lonely.close()
    loop = model.serve()
    answers = [loop.submit(r) for r in requests]
    together = [answer.finish() for answer in answers]
    loop.close()
    for r, one, result in zip(requests, alone, together, strict=True):
        assert (result.tokens, result.text, result.finish_reason) == (one.tokens, one.text, "length")
        if r.draft != "auto":
            assert result.acceptance.drafted == one.acceptance.drafted
            assert result.acceptance.by_position == one.acceptance.by_position
    assert sum(result.acceptance.accepted for result in together) > 10


def test_a_generation_alone_says_the_same(model: offload.LanguageModel) -> None:
    never_end = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    plain = model.generate(PROMPTS[1], max_tokens=30, draft=0, seed=4, logit_bias=never_end).finish()
    loop = model.serve()
    assert loop.submit(request(model, PROMPTS[1], 4, max_tokens=30)).finish().text == plain.text
    with pytest.raises(OptionError, match="being served"):
        model.generate(PROMPTS[0])
    with pytest.raises(OptionError, match="being served"):
        model.serve()
    loop.close()
    assert model.generate(PROMPTS[1], max_tokens=30, seed=4, logit_bias=never_end).finish().text == plain.text


def test_answers_are_awaited_and_read_asynchronously(loop: ServingLoop, model: offload.LanguageModel) -> None:
    async def text(answer: Answer) -> str:
        return "".join([event.text async for event in answer])

    async def both() -> tuple[list[str], offload.Result]:
        reading = [text(loop.submit(request(model, p, max_tokens=20))) for p in PROMPTS]
        return await asyncio.gather(*reading), await loop.submit(request(model, PROMPTS[0], max_tokens=20))

    texts, result = asyncio.run(both())
    assert texts[0] == result.text
    assert len(set(texts)) == 4


def test_a_full_queue_refuses(loop: ServingLoop, model: offload.LanguageModel) -> None:
    answers = [loop.submit(request(model, max_tokens=400)) for _ in range(8)]
    with pytest.raises(QueueFull, match="4 requests wait for a slot"):
        loop.submit(request(model))
    for answer in answers:
        answer.cancel()
    assert {answer.finish().finish_reason for answer in answers} == {"cancelled"}
    assert loop.submit(request(model, max_tokens=3)).finish().finish_reason == "length"
    totals = loop.totals()
    assert (totals.submitted, totals.refused, totals.running, totals.waiting) == (9, 1, 0, 0)
    assert totals.ended == {"cancelled": 8, "length": 1}


def test_prompts_that_do_not_fit_are_refused(loop: ServingLoop, model: offload.LanguageModel) -> None:
    with pytest.raises(ContextFull, match="600 tokens, at most 511 fit"):
        loop.submit(request(model, [1] * 600))
    with pytest.raises(OptionError, match="max_tokens is 0"):
        request(model, max_tokens=0)
    assert loop.totals().submitted == 0


def test_closing_lets_running_answers_finish_in_time(model: offload.LanguageModel) -> None:
    loop = model.serve(max_waiting=2)
    running = [loop.submit(request(model, max_tokens=30)) for _ in range(4)]
    waiting = loop.submit(request(model, max_tokens=30))
    closing = threading.Thread(target=loop.close, args=(60.0,))
    next(iter(running[0]))
    closing.start()
    assert [answer.finish().finish_reason for answer in running] == ["length"] * 4
    with pytest.raises(Closing, match="was not begun"):
        waiting.finish()
    closing.join()
    with pytest.raises(Closing, match="shutting down"):
        loop.submit(request(model))


def test_closing_cuts_what_takes_longer(model: offload.LanguageModel) -> None:
    loop = model.serve()
    answer = loop.submit(request(model, max_tokens=450, draft=0))
    next(iter(answer))
    loop.close(grace_s=0.05)
    assert answer.finish().finish_reason == "cancelled"
    assert 0 < len(answer.result.tokens) < 450


def test_an_error_in_one_sequence_harms_no_other(
    loop: ServingLoop, model: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(line: str) -> None:
        raise RuntimeError("this one only")

    expected = loop.submit(request(model, PROMPTS[1], max_tokens=20)).finish().tokens
    bad = loop.submit(request(model, PROMPTS[0], max_tokens=20, explain=refuse))
    sampled = loop.submit(request(model, PROMPTS[2], max_tokens=20))
    good = loop.submit(request(model, PROMPTS[1], max_tokens=20))
    monkeypatch.setattr(type(sampled.sequence.sampler), "draw", _failing_for(sampled))
    with pytest.raises(RuntimeError, match="this one only"):
        bad.finish()
    with pytest.raises(ZeroDivisionError):
        sampled.finish()
    assert good.finish().tokens == expected
    assert {slot.state for slot in loop.slots()} == {"free"}


def _failing_for(answer: Answer) -> Any:
    sampler, draw = answer.sequence.sampler, type(answer.sequence.sampler).draw

    def failing(self: Any, *arguments: Any) -> Any:
        if self is sampler:
            raise ZeroDivisionError
        return draw(self, *arguments)

    return failing


def test_an_error_of_the_engine_ends_all_and_the_loop_goes_on(
    loop: ServingLoop, model: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loop.submit(request(model, PROMPTS[1], max_tokens=20)).finish().tokens

    def fail(*arguments: Any) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(loop._batch.engine.drafter.mtp, "observe", fail)  # type: ignore[attr-defined]
        answers = [loop.submit(request(model, p, max_tokens=20)) for p in PROMPTS]
        for answer in answers:
            with pytest.raises(EngineFailed, match="no more"):
                answer.finish()
    assert loop.submit(request(model, PROMPTS[1], max_tokens=20)).finish().tokens == expected


def test_a_dead_loop_says_so(model: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise SystemExit

    loop = model.serve()
    monkeypatch.setattr(loop._batch.engine, "step", die)
    with pytest.raises(EngineFailed, match="SystemExit"):
        loop.submit(request(model)).finish()
    loop.close()
    with pytest.raises(EngineFailed, match="has died: SystemExit"):
        loop.submit(request(model))
