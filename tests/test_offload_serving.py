"""Several requests at once: each gets what it gets alone, and none can hurt, starve or outlive another."""

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offload
from offload.errors import Closing, ContextFull, EngineFailed, OptionError, QueueFull
from offload.sampling import Grammar, SamplingParams
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
    (
        {"draft": 2, "temperature": 0.8, "grammar": Grammar.regex("[a-z ]*")},
        {"draft": 2, "temperature": 0},
        {"draft": 0, "temperature": 0.8, "grammar": Grammar.regex("[0-9]*")},
        {"draft": "auto", "temperature": 0.8},
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
    with pytest.raises(OptionError, match="being served"):
        model.warm_up()
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


@dataclass
class WatchedStep:
    sequences: list[Any]
    waiting: list[int]  # tokens that each had not computed: 1 while it is generated
    computed: list[int]
    outcomes: list[Any]

    @property
    def prompt_rows(self) -> int:
        return sum(n for n, waiting in zip(self.computed, self.waiting, strict=True) if waiting > 1)


@pytest.fixture
def steps(loop: ServingLoop, monkeypatch: pytest.MonkeyPatch) -> list[WatchedStep]:
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


def test_cancelling_frees_the_slot_within_a_step(
    loop: ServingLoop, model: offload.LanguageModel, steps: list[WatchedStep]
) -> None:
    answers = [loop.submit(request(model, p, max_tokens=300, draft=i)) for i, p in enumerate(PROMPTS)]
    waiting = loop.submit(request(model, PROMPTS[3], max_tokens=3))
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
    assert {slot.state for slot in loop.slots()} == {"free"}


def test_nobody_starves(loop: ServingLoop, model: offload.LanguageModel, steps: list[WatchedStep]) -> None:
    """While long prompts keep coming, each sequence that is generated gets a token in every step, with one chunk
    at most between two of them; prompts are admitted in the order of their coming, and the first goes on."""
    generating = loop.submit(request(model, PROMPTS[0], max_tokens=150, draft=1))
    next(iter(generating))
    long = [loop.submit(request(model, [7 + i] * 300, max_tokens=2)) for i in range(6)]
    last = loop.submit(request(model, PROMPTS[1], max_tokens=2))
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


def test_a_conversation_goes_on_from_its_slot(loop: ServingLoop, model: offload.LanguageModel) -> None:
    """Drafts, too, are from the first step on what they would be had the block read all of it."""
    first = loop.submit(request(model, PROMPTS[1], max_tokens=30, draft=2, temperature=0)).finish()
    talk = [*model.tokenizer.encode(PROMPTS[1]), *first.tokens, *model.tokenizer.encode("\n\n")]
    for other in [loop.submit(request(model, p, max_tokens=5)) for p in (PROMPTS[0], PROMPTS[2], PROMPTS[3])]:
        other.finish()
    again = loop.submit(request(model, talk, max_tokens=30, draft=2, temperature=0)).finish()
    assert again.prompt_reused == len(model.tokenizer.encode(PROMPTS[1])) + len(first.tokens) - 1
    model.slots.forget()
    fresh = loop.submit(request(model, talk, max_tokens=30, draft=2, temperature=0)).finish()
    assert fresh.prompt_reused == 0
    assert (again.tokens, again.acceptance.drafted, again.acceptance.accepted) == (
        fresh.tokens,
        fresh.acceptance.drafted,
        fresh.acceptance.accepted,
    )


@pytest.mark.parametrize("between", [{"draft": 0}, {"draft": 2, "drafter": "ngram"}, {"draft": "auto"}])
def test_reuse_is_bitwise_what_a_fresh_run_is(
    loop: ServingLoop, model: offload.LanguageModel, steps: list[WatchedStep], between: dict[str, Any]
) -> None:
    """Turns of a text with other drafters between: logits to the bit, and the drafts of the block."""
    text = model.tokenizer.encode(PROMPTS[2] + "(self):\n        self.items = []\n\n    def push(self, item):\n" * 2)

    def turn(length: int, **settings: Any) -> tuple[int, list[Any]]:
        steps.clear()
        result = loop.submit(request(model, text[:length], max_tokens=4, **settings)).finish()
        return result.prompt_reused, [step.outcomes[0] for step in steps if step.outcomes[0].draws]

    model.slots.forget()
    turn(20, draft=2)
    turn(28, **between)
    reused, warm = turn(len(text), draft=2)
    model.slots.forget()
    nothing, fresh = turn(len(text), draft=2)
    assert nothing == 0
    assert reused >= 19
    assert (reused >= 27) == (between["draft"] == "auto"), "the block saw the turn between only if it drafted there"
    assert [o.draft.token_ids for o in warm] == [o.draft.token_ids for o in fresh]
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(warm, fresh, strict=True))


@pytest.mark.parametrize("drafts", [{"draft": 2}, {"draft": 0}, {"draft": "auto", "temperature": 0}])
def test_the_same_prompt_is_read_once(
    loop: ServingLoop, model: offload.LanguageModel, steps: list[WatchedStep], drafts: dict[str, Any]
) -> None:
    """Several choices, or one system prompt: rows are copied from the slot of the one that has computed them."""
    model.slots.forget()
    system = [5 + i * 7 % 200 for i in range(150)]
    requests = [request(model, [*system, *tail], i, max_tokens=12, **drafts) for i, tail in enumerate(([], [], [9, 8]))]
    together = [answer.finish() for answer in [loop.submit(r) for r in requests]]
    computed = sum(step.prompt_rows for step in steps)
    assert 150 <= computed < 150 + 32, "one read it, the others what room its last chunk left and their own ends"
    late = loop.submit(request(model, [*system[:100], 3], 7, max_tokens=12, **drafts)).finish()
    assert late.prompt_reused in (99, 100)
    for r, result in zip(
        (*requests, request(model, [*system[:100], 3], 7, max_tokens=12, **drafts)), (*together, late), strict=True
    ):
        model.slots.forget()
        fresh = loop.submit(r).finish()
        assert fresh.prompt_reused == 0
        assert fresh.tokens == result.tokens
        if r.draft != "auto":
            assert fresh.acceptance.by_position == result.acceptance.by_position


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
        patch.setattr(loop._batch.engine.drafter.passes, "observe", fail)  # type: ignore[attr-defined]
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


def test_on_an_accelerator_slots_change_nothing(glm_path: Path) -> None:
    """In the loop's thread, too, nothing of the block crosses, and drafts are read back once a step."""
    model = offload.load(glm_path, slots=3, cache_type="f32", device="emulated", check_backends=True)
    settings: list[dict[str, Any]] = [{"draft": 2}, {"draft": "auto", "temperature": 0}, {"draft": 0}]
    requests = [request(model, [3 + i] * 10, i, max_tokens=5, **s) for i, s in enumerate(settings)]
    alone = [model.generate(r.token_ids, max_tokens=5, draft=0, **vars(r.sampling)).finish().tokens for r in requests]
    loop = model.serve()
    answers = [loop.submit(r) for r in requests]
    assert [answer.finish().tokens for answer in answers] == alone
    loop.close()
    crossed = loop.totals().bytes_crossed
    assert crossed["tokens", "up"] > 0
    assert not crossed["mtp", "down"] + crossed["mtp", "up"]
