"""Requests go on from what slots hold, and get what they get from empty ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PROMPTS, WatchedStep, request

import offload
from offload.serving import ServingLoop


def test_a_conversation_goes_on_from_its_slot(short_loop: ServingLoop, chunked: offload.LanguageModel) -> None:
    """Drafts, too, are from the first step on what they would be had the block read all of it."""
    first = short_loop.submit(request(chunked, PROMPTS[1], max_tokens=30, draft=2, temperature=0)).finish()
    talk = [*chunked.tokenizer.encode(PROMPTS[1]), *first.tokens, *chunked.tokenizer.encode("\n\n")]
    for other in [short_loop.submit(request(chunked, p, max_tokens=5)) for p in (PROMPTS[0], PROMPTS[2], PROMPTS[3])]:
        other.finish()
    again = short_loop.submit(request(chunked, talk, max_tokens=30, draft=2, temperature=0)).finish()
    assert again.prompt_reused == len(chunked.tokenizer.encode(PROMPTS[1])) + len(first.tokens) - 1
    chunked.slots.forget()
    fresh = short_loop.submit(request(chunked, talk, max_tokens=30, draft=2, temperature=0)).finish()
    assert fresh.prompt_reused == 0
    assert (again.tokens, again.acceptance.drafted, again.acceptance.accepted) == (
        fresh.tokens,
        fresh.acceptance.drafted,
        fresh.acceptance.accepted,
    )


@pytest.mark.parametrize("between", [{"draft": 0}, {"draft": 2, "drafter": "ngram"}, {"draft": "auto"}])
def test_reuse_is_bitwise_what_a_fresh_run_is(
    short_loop: ServingLoop, chunked: offload.LanguageModel, steps: list[WatchedStep], between: dict[str, Any]
) -> None:
    """Turns of a text with other drafters between: logits to the bit, and the drafts of the block."""
    text = chunked.tokenizer.encode(PROMPTS[2] + "(self):\n        self.items = []\n\n    def push(self, item):\n" * 2)

    def turn(length: int, **settings: Any) -> tuple[int, list[Any]]:
        steps.clear()
        result = short_loop.submit(request(chunked, text[:length], max_tokens=4, **settings)).finish()
        return result.prompt_reused, [step.outcomes[0] for step in steps if step.outcomes[0].draws]

    chunked.slots.forget()
    turn(20, draft=2)
    turn(28, **between)
    reused, warm = turn(len(text), draft=2)
    chunked.slots.forget()
    nothing, fresh = turn(len(text), draft=2)
    assert nothing == 0
    assert reused >= 19
    assert (reused >= 27) == (between["draft"] == "auto"), "the block saw the turn between only if it drafted there"
    assert [o.draft.token_ids for o in warm] == [o.draft.token_ids for o in fresh]
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(warm, fresh, strict=True))


@pytest.mark.parametrize("drafts", [{"draft": 2}, {"draft": 0}, {"draft": "auto", "temperature": 0}])
def test_the_same_prompt_is_read_once(
    short_loop: ServingLoop, chunked: offload.LanguageModel, steps: list[WatchedStep], drafts: dict[str, Any]
) -> None:
    """Several choices, or one system prompt: rows are copied from the slot of the one that has computed them."""
    chunked.slots.forget()
    system = [5 + i * 7 % 200 for i in range(150)]
    tails: list[list[int]] = [[], [], [9, 8]]
    requests = [request(chunked, [*system, *tail], i, max_tokens=12, **drafts) for i, tail in enumerate(tails)]
    together = [answer.finish() for answer in [short_loop.submit(r) for r in requests]]
    computed = sum(step.prompt_rows for step in steps)
    assert 150 <= computed < 150 + 32, "one read it, the others what room its last chunk left and their own ends"
    late = short_loop.submit(request(chunked, [*system[:100], 3], 7, max_tokens=12, **drafts)).finish()
    assert late.prompt_reused in (99, 100)
    for r, result in zip(
        (*requests, request(chunked, [*system[:100], 3], 7, max_tokens=12, **drafts)), (*together, late), strict=True
    ):
        chunked.slots.forget()
        fresh = short_loop.submit(r).finish()
        assert fresh.prompt_reused == 0
        assert fresh.tokens == result.tokens
        if r.draft != "auto":
            assert fresh.acceptance.by_position == result.acceptance.by_position


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
