"""Structured output and log-probabilities, as the `openai` package sees them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

import offload

HELLO: Any = [{"role": "user", "content": "def fib(n):"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_schema_is_held(client: openai.OpenAI, thinking: bool | None) -> None:
    """The answer, not the reasoning before it; streamed or not, drafted for or not."""
    answers = set()
    for more in ({}, {"speculative": {"type": "none"}}, {"speculative": {"type": "mtp", "max_tokens": 3}}):
        asked: Any = {"model": "any", "messages": HELLO, "response_format": FORMAT, "seed": 3, "temperature": 0.8}
        asked |= {"max_tokens": 120, "extra_body": {"enable_thinking": thinking} | more}
        (choice,) = client.chat.completions.create(**asked).choices
        chunks = client.chat.completions.create(**asked, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert choice.finish_reason == "stop"
        assert choice.message.content == streamed
        value = json.loads(streamed)
        assert set(value) == {"city", "days"}
        assert len(value["city"]) <= 8
        assert value["days"] in (1, 2, 3)
        answers.add(streamed)
    assert len(answers) == 1


def test_other_formats(client: openai.OpenAI) -> None:
    asked: Any = {"model": "any", "prompt": "def fib(n):", "max_tokens": 60, "seed": 1}
    regex: Any = {"response_format": {"type": "regex", "pattern": "[a-c]{2,4}-[0-9]{3}"}}
    (choice,) = client.completions.create(**asked, extra_body=regex).choices
    assert len(choice.text.partition("-")[2]) == 3
    lark: Any = {"response_format": {"type": "grammar", "grammar": 'start: ("ab" | "cd") "!"'}}
    assert client.completions.create(**asked, extra_body=lark).choices[0].text in ("ab!", "cd!")
    (choice,) = client.chat.completions.create(
        model="any", messages=HELLO, response_format={"type": "json_object"}, max_tokens=4, seed=1,
        extra_body={"enable_thinking": False},
    ).choices  # fmt: skip
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith("{")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ({"type": "json_schema"}, "response_format.json_schema.schema is missing"),
        ({"type": "regex"}, "response_format.pattern is missing"),
        ({"type": "regex", "pattern": "("}, "the regular expression cannot be used"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "sum"}}}, "Invalid type: sum"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}}, "Unsatisfiable"),
        ({"type": "grammar", "grammar": "start: ("}, "the Lark grammar cannot be used"),
        ({"type": "xml"}, "response_format.type"),
    ],
)
def test_formats_that_cannot_be_followed(address: str, format: Any, message: str) -> None:
    for path, body in (("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "a"})):
        answer = httpx.post(f"{address}/v1/{path}", json={**body, "response_format": format, "max_tokens": 3})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("thinking", [None, False])
@pytest.mark.parametrize(
    ("choice", "likely", "calls_tools"),
    [
        ("auto", "{", False),
        ("auto", "<tool_call>", True),
        ("none", "<tool_call>", False),
        ("required", "<tool_call>", True),
    ],
)
def test_an_answer_with_tools_is_calls_or_has_the_format(
    address: str, slotted: offload.LanguageModel, thinking: bool | None, choice: str, likely: str, calls_tools: bool
) -> None:
    """The beginning of either made likely; drafted for or not."""
    (token_id,) = slotted.tokenizer.encode(likely)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
    body = {"messages": HELLO, "tools": tools, "tool_choice": choice, "response_format": FORMAT, "max_tokens": 100}
    answers = []
    for speculative in ({"type": "none"}, {"type": "mtp", "max_tokens": 3}):
        asked = {"seed": 1, "enable_thinking": thinking, "logit_bias": {token_id: 12}, "speculative": speculative}
        (found,) = httpx.post(f"{address}/v1/chat/completions", json=body | asked, timeout=60).json()["choices"]
        message = found["message"]
        answers.append((message["content"], [one["function"] for one in message.get("tool_calls", [])]))
    assert answers[0] == answers[1]
    content, calls = answers[0]
    assert bool(calls) == calls_tools
    if calls_tools:
        assert content is None
    else:
        assert set(json.loads(content)) == {"city", "days"}


def test_logprobs(client: openai.OpenAI, slotted: offload.LanguageModel) -> None:
    asked: Any = {"model": "any", "messages": HELLO, "max_tokens": 6, "seed": 3, "temperature": 1.2}
    (choice,) = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices
    found = choice.logprobs.content
    assert len(found) == 6
    for position in found:
        assert len(position.top_logprobs) == 3
        assert position.logprob <= position.top_logprobs[0].logprob <= 0
        assert position.token.encode() == bytes(position.bytes)
    (choice,) = client.completions.create(model="any", prompt="def", max_tokens=3, logprobs=2).choices
    assert [len(top) for top in choice.logprobs.top_logprobs] == [2, 2, 2]
    assert client.chat.completions.create(**asked).choices[0].logprobs is None


CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
}
FUNCTIONS: Any = [
    {"type": "function", "function": {"name": "weather", "strict": True, "parameters": CITY}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
ALLOWED = {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "now"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
        ({"type": "allowed_tools", "allowed_tools": ALLOWED}, {"weather"}),
    ],
)
def test_calls_are_forced_and_held(client: openai.OpenAI, choice: Any, names: set[str]) -> None:
    """Streamed or not, drafted for or not."""
    for seed in range(3):
        asked: Any = {"model": "any", "messages": HELLO, "tools": FUNCTIONS, "tool_choice": choice, "seed": seed}
        asked |= {"max_tokens": 120, "temperature": 0.8, "parallel_tool_calls": False}
        (whole,) = client.chat.completions.create(**asked, extra_body={"speculative": {"type": "none"}}).choices
        (call,) = whole.message.tool_calls
        with client.chat.completions.stream(**asked) as stream:
            (streamed,) = stream.get_final_completion().choices
        assert whole.finish_reason == streamed.finish_reason == "tool_calls"
        assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
        assert call.function.name in names
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            assert len(arguments["city"]) <= 12
            assert arguments["days"] in (1, 2, 3)
        else:
            assert arguments == {}


def test_anthropic_calls_are_forced_and_held(address: str) -> None:
    tools = [{"name": "weather", "input_schema": CITY}]
    for kind in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        choice = {**kind, "disable_parallel_tool_use": True}
        body = {"messages": HELLO, "tools": tools, "tool_choice": choice, "max_tokens": 120, "temperature": 0.5}
        message = httpx.post(f"{address}/v1/messages", json=body, timeout=60).json()
        (call,) = message["content"]
        assert (call["type"], call["name"], call["input"]["days"] in (1, 2, 3)) == ("tool_use", "weather", True)
        assert message["stop_reason"] == "tool_use"
