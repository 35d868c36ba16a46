"""Anthropic's protocol, checked as raw JSON: messages, streams, tools, reasons to stop."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import ScriptedLoop, served

import offload
from offload.server.answer_types import AnthropicMessage
from offload.serving import ServingLoop

HELLO = [{"role": "user", "content": "def fib(n):"}]
TOOL = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
CALL = (
    "\n<think>Look it up.</think>\nOne moment.\n<tool_call>weather\n<arg_key>city</arg_key>\n"
    "<arg_value>Zürich</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
)


def post(address: str, **body: Any) -> httpx.Response:
    asked = {"model": "tiny", "max_tokens": 16, "messages": HELLO} | body
    return httpx.post(f"{address}/v1/messages", json=asked, timeout=300)


def events(address: str, **body: Any) -> list[dict[str, Any]]:
    """Data of the events of a stream, whose names are their types."""
    found = []
    for block in post(address, stream=True, **body).text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def folded(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks of content that the events of a stream make, by the protocol's rules."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in stream:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"] | {"json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                delta = event["delta"]
                key = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
                if delta["type"] == "input_json_delta":
                    blocks[-1]["json"] += delta["partial_json"]
                else:
                    blocks[-1][key[delta["type"]]] += delta[key[delta["type"]]]
            case "content_block_stop":
                assert event["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    return blocks


def test_a_message(address: str, tiny: offload.LanguageModel) -> None:
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = post(address, system=system, temperature=0, max_tokens=20).json()
    prompt = tiny.chat_template.render([{"role": "system", "content": "Be brief."}, *HELLO], enable_thinking=False)
    expected = tiny.generate(prompt, temperature=0, max_tokens=20, draft=0).finish().text.lstrip("\n")
    assert message["content"] == [{"type": "text", "text": expected}]
    assert {key: message[key] for key in ("type", "role", "model", "stop_reason", "stop_sequence")} == {
        "type": "message", "role": "assistant", "model": "tiny", "stop_reason": "max_tokens", "stop_sequence": None,
    }  # fmt: skip
    assert message["id"].startswith("msg_")
    usage = message["usage"]
    num_tokens = len(tiny.tokenizer.encode(prompt))
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == num_tokens
    assert usage["output_tokens"] == 20
    asked = {"model": "tiny", "messages": HELLO, "system": system}
    counted = httpx.post(f"{address}/v1/messages/count_tokens", json=asked)
    assert counted.json() == {"input_tokens": num_tokens}


def test_a_stream_says_what_a_message_says(address: str) -> None:
    asked = {"temperature": 0, "max_tokens": 20}
    message, stream = post(address, **asked).json(), events(address, **asked)
    assert folded(stream) == message["content"]
    assert stream[0]["type"] == "message_start"
    assert stream[0]["message"]["content"] == []
    assert [event["type"] for event in stream[-2:]] == ["message_delta", "message_stop"]
    assert stream[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert stream[-2]["usage"]["output_tokens"] == 20


def test_stop_sequences(address: str) -> None:
    text = post(address, temperature=0, max_tokens=40).json()["content"][0]["text"]
    stop = text[10:14]
    message = post(address, temperature=0, max_tokens=40, stop_sequences=["@@@", stop]).json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", stop)
    assert text.startswith(message["content"][0]["text"])
    assert stop not in message["content"][0]["text"]


def test_the_answer_can_be_begun(address: str, tiny: offload.LanguageModel) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "    return"}]
    message = post(address, messages=begun, temperature=0).json()
    prompt = tiny.chat_template.render(HELLO, enable_thinking=False) + "    return"
    expected = tiny.generate(prompt, temperature=0, max_tokens=16).finish().text
    assert message["content"][0]["text"] == expected.rstrip() or message["content"][0]["text"] == expected


@pytest.mark.parametrize("thinking", ["disabled", "adaptive"])
def test_a_message_follows_a_schema(address: str, thinking: str) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    schema["additionalProperties"] = False
    form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}, "thinking": {"type": thinking}}
    message = post(address, max_tokens=400, **form).json()
    assert json.loads(message["content"][-1]["text"])["city"] in ("Rome", "Oslo")
    assert message["stop_reason"] == "end_turn"


@pytest.fixture
def scripted(tiny: offload.LanguageModel) -> Iterator[tuple[ScriptedLoop, str]]:
    loop = ScriptedLoop(tiny, [CALL])
    with served(loop) as address:
        yield loop, address


def test_tools(scripted: tuple[ScriptedLoop, str], tiny: offload.LanguageModel) -> None:
    loop, address = scripted
    asked = {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    message = post(address, **asked).json()
    AnthropicMessage.model_validate(message)
    thinking, text, call = message["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Look it up.")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "One moment."}
    assert call == {"type": "tool_use", "id": call["id"], "name": "weather", "input": {"city": "Zürich", "days": 3}}
    assert message["stop_reason"] == "tool_use"
    stream = events(address, **asked)
    (streamed,) = [block for block in folded(stream) if block["type"] == "tool_use"]
    assert streamed == call | {"id": streamed["id"]}
    assert stream[-2]["delta"]["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "rain"}]}
    failed = {"type": "tool_result", "tool_use_id": "x", "content": "no such city", "is_error": True}
    more = {"type": "text", "text": "And now?"}
    history = [
        {"role": "user", "content": "Wetter?"},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result, failed, more]},
    ]
    post(address, messages=history, **asked).raise_for_status()
    prompt = tiny.tokenizer.decode(loop.requests[-1].token_ids, skip_special=False)
    assert CALL.strip() in prompt
    assert prompt.endswith(
        "<|observation|>\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nError: no such city\n"
        "</tool_response><|user|>\nAnd now?<|assistant|>"
    )


def test_choices_of_tools(scripted: tuple[ScriptedLoop, str], tiny: offload.LanguageModel) -> None:
    loop, address = scripted
    loop.texts = ["<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"]
    asked = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}}
    (call,) = post(address, **asked).json()["content"]
    assert (call["name"], call["input"]) == ("weather", {"city": "x"})
    assert folded(events(address, **asked))[0]["input"] == {"city": "x"}
    assert loop.requests[-1].grammar.calls.forced
    post(address, tools=[TOOL], tool_choice={"type": "none"})
    assert "weather" not in tiny.tokenizer.decode(loop.requests[-1].token_ids)


def test_a_call_that_is_cut_off_is_left_out(tiny: offload.LanguageModel) -> None:
    with served(ScriptedLoop(tiny, [CALL[:-40]], reason="length")) as address:
        message = post(address, tools=[TOOL]).json()
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer, found None"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "there is nothing to answer"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image' found"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages.0.role: Input should be 'user'"),
        ({"stop_sequences": ["x"] * 5000}, "stop_sequences: List should have at most 16 items"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.input_schema: Field required"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "needs the name of one"),
        ({"temperature": 1000}, "temperature is 1000"),
    ],
)
def test_errors(address: str, changes: dict[str, Any], message: str) -> None:
    response = post(address, **changes)
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert message in response.json()["error"]["message"]


def test_keys(loop: ServingLoop) -> None:
    with served(loop, api_keys=("right",)) as address:
        asked = {"model": "tiny", "max_tokens": 1, "messages": HELLO}
        refused = httpx.post(f"{address}/v1/messages", json=asked, headers={"x-api-key": "wrong"})
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        headers = {"x-api-key": "right", "anthropic-version": "2023-06-01"}
        assert httpx.post(f"{address}/v1/messages", json=asked, headers=headers).status_code == 200
