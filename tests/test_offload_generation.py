"""Events, stop strings, limits and results of a generation."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from glm_files import END

import offload
from offload.result import TokenEvent
from offload.stop_strings import StopGate

PROMPT = "in the thing"


def generate(model: offload.LanguageModel, **arguments: Any) -> offload.Generation:
    return model.generate(PROMPT, **{"max_tokens": 30, "temperature": 0.9, "seed": 3, "draft": 2, **arguments})


def test_events_fold_into_the_result(model: offload.LanguageModel) -> None:
    generation = generate(model)
    events = list(generation)
    result = generation.result
    assert "".join(event.text for event in events) == result.text == model.tokenizer.decode(result.tokens)
    assert [event.token_id for event in events if event.token_id is not None] == result.tokens
    assert sum(event.drafted for event in events) == result.acceptance.accepted
    assert all(0 < event.p <= 1 for event in events)
    assert result.finish_reason in ("length", "stop")
    assert list(generation) == []


def test_json_has_the_promised_keys(model: offload.LanguageModel) -> None:
    document = generate(model).finish().as_json()
    assert list(document) == [
        "text",
        "tokens",
        "finish_reason",
        "prompt_tokens",
        "prompt_tokens_per_s",
        "decode_tokens_per_s",
        "steps",
        "drafted",
        "accepted",
        "acceptance_by_position",
        "experts_per_step",
        "expert_reuse",
        "gb_per_s",
        "bytes_crossed",
    ]


@pytest.mark.parametrize("draft", [0, 3])
def test_stop_strings_end_the_text_before_them(model: offload.LanguageModel, draft: int) -> None:
    text = generate(model, draft=0).finish().text
    for start, length in [(0, 1), (4, 2), (9, 5)]:
        stop = text[start : start + length]
        result = generate(model, draft=draft, stop=[stop, "never there"]).finish()
        assert result.text == text[: text.index(stop)]
        assert result.finish_reason == "stop"


@pytest.mark.parametrize("draft", [0, 1, 5])
def test_max_tokens_is_exact(model: offload.LanguageModel, draft: int) -> None:
    full = generate(model, draft=0, logit_bias={END: -1e9}).finish().tokens
    for max_tokens in (1, 2, 3, 7):
        result = generate(model, draft=draft, max_tokens=max_tokens, logit_bias={END: -1e9}).finish()
        assert result.tokens == full[:max_tokens]


def test_end_token_ends_the_text_and_is_not_shown(model: offload.LanguageModel) -> None:
    result = generate(model, logit_bias={END: 1e9}).finish()
    assert (result.tokens, result.text, result.finish_reason) == ([END], "", "stop")


@pytest.mark.parametrize("draft", [0, 3])
def test_a_full_context_ends_the_text(glm_path: Any, draft: int) -> None:
    model = offload.load(glm_path, context=20)
    result = model.generate([1] * 15, max_tokens=100, draft=draft, temperature=0).finish()
    assert (len(result.tokens), result.finish_reason) == (5, "length")
    with pytest.raises(offload.MoeOffloadError, match=r"20 tokens, at most 19 fit"):
        model.generate([1] * 20, max_tokens=1)


def test_gate_holds_back_what_may_become_a_stop_string() -> None:
    gate = StopGate(["END", "EX"])

    def push(text: str) -> list[str]:
        return [event.text for event in gate.push(TokenEvent(0, text, False, 1.0))]

    assert push("a E") == []
    assert push("N") == []
    assert push("x") == ["a E", "N", "x"]
    assert push("") == [""]
    assert push("E") == []
    assert push("XY") == [""]
    assert gate.stopped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"draft": -1}, "draft is -1"),
        ({"drafter": "mpt"}, "'mpt'.*mtp, model, ngram, none"),
        ({"temprature": 1.0}, "'temprature'; did you mean 'temperature'"),
        ({"logit_bias": {999: 1.0}}, "token 999.*0..263"),
    ],
)
def test_illegal_arguments_are_named(model: offload.LanguageModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(offload.MoeOffloadError, match=message):
        generate(model, **arguments)


@pytest.mark.parametrize(("prompt", "message"), [("", "empty"), ([], "empty"), ([264], "264.*0..263"), ([-1], "-1")])
def test_illegal_prompts_are_named(model: offload.LanguageModel, prompt: Any, message: str) -> None:
    with pytest.raises(offload.MoeOffloadError, match=message):
        model.generate(prompt)


def test_threads_that_share_a_model_take_turns(chunked: offload.LanguageModel) -> None:
    """Each text is what it is alone, however often the interpreter goes from one thread to another."""
    prompts = ("def fib(n):", "It was a fine evening", "class Stack:\n    def __init__", "import os\n")
    alone = [chunked.generate(prompt, max_tokens=30, draft=0).finish().tokens for prompt in prompts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(prompts)) as threads:
            for draft in (0, 2, "auto"):
                texts = [threads.submit(chunked.generate(p, max_tokens=30, draft=draft).finish) for p in prompts]
                assert [text.result().tokens for text in texts] == alone
    finally:
        sys.setswitchinterval(interval)
