"""Several requests at once: each gets what it gets alone, and none can hurt, starve or outlive another."""

import asyncio
import gc
import random
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from serving import PROMPTS, WatchedStep, request

import offload
from offload.errors import ContextFull, OptionError, QueueFull
from offload.sampling import Grammar
from offload.serving import Answer, GenerationRequest, ServingLoop

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
    (
        {"draft": 2, "temperature": 0.8, "grammar": Grammar.regex("[a-z ]*")},
        {"draft": 2, "temperature": 0},
        {"draft": 0, "temperature": 0.8, "grammar": Grammar.regex("[0-9]*")},
        {"draft": "auto", "temperature": 0.8},
    ),
)


@pytest.mark.parametrize("mix", MIXES)
def test_each_answer_is_what_it_is_alone(chunked: offload.LanguageModel, mix: tuple[dict[str, Any], ...]) -> None:
    """Tokens, text, and with fixed lengths the acceptance too: nothing of a draft depends on who is beside."""
    requests = [request(chunked, p, i, max_tokens=40, **s) for i, (p, s) in enumerate(zip(PROMPTS, mix, strict=True))]
    alone = []
    for r in requests:
        lonely = chunked.serve()
        alone.append(lonely.submit(r).finish())
        lonely.close()
    loop = chunked.serve()
    answers = [loop.submit(r) for r in requests]
    together = [answer.finish() for answer in answers]
    loop.close()
    for r, one, result in zip(requests, alone, together, strict=True):
        assert (result.tokens, result.text, result.finish_reason) == (one.tokens, one.text, "length")
        if r.draft != "auto":
            assert result.acceptance.drafted == one.acceptance.drafted
            assert result.acceptance.by_position == one.acceptance.by_position
    assert sum(result.acceptance.accepted for result in together) > 10


def test_a_generation_alone_says_the_same(chunked: offload.LanguageModel) -> None:
    never_end = dict.fromkeys(chunked.tokenizer.end_of_generation, float("-inf"))
    plain = chunked.generate(PROMPTS[1], max_tokens=30, draft=0, seed=4, logit_bias=never_end).finish()
    loop = chunked.serve()
    assert loop.submit(request(chunked, PROMPTS[1], 4, max_tokens=30)).finish().text == plain.text
    with pytest.raises(OptionError, match="being served"):
        chunked.generate(PROMPTS[0])
    with pytest.raises(OptionError, match="being served"):
        chunked.serve()
    with pytest.raises(OptionError, match="being served"):
        chunked.warm_up()
    loop.close()
    assert chunked.generate(PROMPTS[1], max_tokens=30, seed=4, logit_bias=never_end).finish().text == plain.text


def test_answers_are_awaited_and_read_asynchronously(short_loop: ServingLoop, chunked: offload.LanguageModel) -> None:
    async def text(answer: Answer) -> str:
        return "".join([event.text async for event in answer])

    async def both() -> tuple[list[str], offload.Result]:
        reading = [text(short_loop.submit(request(chunked, p, max_tokens=20))) for p in PROMPTS]
        return await asyncio.gather(*reading), await short_loop.submit(request(chunked, PROMPTS[0], max_tokens=20))

    texts, result = asyncio.run(both())
    assert texts[0] == result.text
    assert len(set(texts)) == 4


def test_a_full_queue_refuses(short_loop: ServingLoop, chunked: offload.LanguageModel) -> None:
    answers = [short_loop.submit(request(chunked, max_tokens=400)) for _ in range(8)]
    with pytest.raises(QueueFull, match="4 requests wait for a slot"):
        short_loop.submit(request(chunked))
    for answer in answers:
        answer.cancel()
    assert {answer.finish().finish_reason for answer in answers} == {"cancelled"}
    assert short_loop.submit(request(chunked, max_tokens=3)).finish().finish_reason == "length"
    totals = short_loop.totals()
    assert (totals.submitted, totals.refused, totals.running, totals.waiting) == (9, 1, 0, 0)
    assert totals.ended == {"cancelled": 8, "length": 1}


def test_prompts_that_do_not_fit_are_refused(short_loop: ServingLoop, chunked: offload.LanguageModel) -> None:
    with pytest.raises(ContextFull, match="600 tokens, at most 511 fit"):
        short_loop.submit(request(chunked, [1] * 600))
    with pytest.raises(OptionError, match="max_tokens is 0"):
        request(chunked, max_tokens=0)
    assert short_loop.totals().submitted == 0


def test_cancelling_frees_the_slot_within_a_step(
    short_loop: ServingLoop, chunked: offload.LanguageModel, steps: list[WatchedStep]
) -> None:
    answers = [short_loop.submit(request(chunked, p, max_tokens=300, draft=i)) for i, p in enumerate(PROMPTS)]
    waiting = short_loop.submit(request(chunked, PROMPTS[3], max_tokens=3))
    cancelled_at = []
    for answer in answers:
        next(iter(answer))
        answer.cancel()
        cancelled_at.append(len(steps))
    assert [answer.finish().finish_reason for answer in answers] == ["cancelled"] * 4
    assert waiting.finish().finish_reason == "length"
    for answer, at in zip(answers, cancelled_at, strict=True):
        last = max(i for i, step in enumerate(steps) if answer.sequence in step.sequences)
        assert last <= at, "at most the step that was under way"
    assert {slot.state for slot in short_loop.slots()} == {"free"}


def test_nobody_starves(short_loop: ServingLoop, chunked: offload.LanguageModel, steps: list[WatchedStep]) -> None:
    """While long prompts keep coming, each sequence that is generated gets a token in every step, with one chunk
    at most between two of them; prompts are admitted in the order of their coming, and the first goes on."""
    generating = short_loop.submit(request(chunked, PROMPTS[0], max_tokens=150, draft=1))
    next(iter(generating))
    long = [short_loop.submit(request(chunked, [7 + i] * 300, max_tokens=2)) for i in range(6)]
    last = short_loop.submit(request(chunked, PROMPTS[1], max_tokens=2))
    for answer in (*long, last, generating):
        answer.finish()
    for step in steps:
        assert step.prompt_rows <= 32, "a chunk"
        assert all(outcome.draws for outcome, n in zip(step.outcomes, step.waiting, strict=True) if n == 1)
        reading = [(n, w) for n, w in zip(step.computed, step.waiting, strict=True) if w > 1]
        if step.prompt_rows:
            assert reading[0][0] >= min(16, reading[0][1]), "who came first has half of the chunk at least"
    assert sum(step.prompt_rows > 0 for step in steps) >= 6 * 300 // 32
    began = [answer.began_at or 0.0 for answer in (*long, last)]
    assert began == sorted(began)
    assert began[0] > 0


def test_hundreds_of_requests_leave_nothing_behind(glm_path: Path) -> None:
    """Random lengths, drafters and cancels from several threads; afterwards the slots are free and nobody is left."""
    model = offload.load(glm_path, slots=3, context=64, chunk_size=16)
    loop = model.serve(max_waiting=400)
    alone = [loop.submit(_random_request(model, seed)).finish().tokens for seed in range(40)]
    ended: list[tuple[int, Answer]] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            which = rng.randrange(40)
            answer = loop.submit(_random_request(model, which))
            if rng.random() < 0.3:
                for _ in zip(range(rng.randrange(3)), answer, strict=False):
                    pass
                answer.cancel()
            answer.finish()
            ended.append((which, answer))

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert len(ended) == 240
    for which, answer in ended:
        tokens = answer.result.tokens
        assert tokens == alone[which][: len(tokens)]
        assert len(tokens) == len(alone[which]) or answer.result.finish_reason == "cancelled"
    totals = loop.totals()
    assert (totals.running, totals.waiting, sum(totals.ended.values()), totals.refused) == (0, 0, 280, 0)
    assert totals.ended["cancelled"] > 10
    assert {slot.state for slot in loop.slots()} == {"free"}
    remembered = [weakref.ref(answer.sequence) for _, answer in ended]
    ended.clear()
    del answer
    gc.collect()
    assert not [sequence for sequence in remembered if sequence() is not None]
    loop.close()


def _random_request(model: offload.LanguageModel, seed: int) -> GenerationRequest:
    rng = random.Random(seed)
    prompt = [rng.randrange(200) for _ in range(rng.randrange(1, 30))]
    draft, drafter = rng.choice([(0, "none"), (2, "mtp"), (3, "ngram"), ("auto", "auto"), (1, "auto")])
    return request(model, prompt, seed, max_tokens=rng.randrange(1, 12), draft=draft, drafter=drafter)
