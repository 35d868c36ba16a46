"""The server as the `openai` package sees it: chat, streams, tools, completions, errors."""

import json
from collections.abc import Iterator
from typing import Literal

import httpx
import numpy as np
import openai
import pydantic
import pytest
from servers import ScriptedLoop, served

import offload
from offload.server.answer_types import ChatCompletion, Completion
from offload.serving import ServingLoop

HELLO = [{"role": "user", "content": "def fib(n):"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
CALL = (
    "\n<think>Look it up.</think>\nOne moment.\n<tool_call>weather\n<arg_key>city</arg_key>\n"
    '<arg_value>"Zürich"</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>'
)
ARGUMENTS = {"city": '"Zürich"', "days": 3}


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def alone(model: offload.LanguageModel, messages: list[dict[str, str]], **sampling: object) -> str:
    """What the model answers without a server and without drafts; this one always thinks nothing."""
    prompt = model.chat_template.render(messages)
    text = model.generate(prompt, draft=0, **sampling).finish().text
    return text.removeprefix("\n").removeprefix("<think></think>").lstrip("\n")


def test_chat(client: openai.OpenAI, tiny: offload.LanguageModel) -> None:
    sampling = {"max_tokens": 24, "seed": 5, "temperature": 0.7}
    mtp = {"speculative": {"type": "mtp", "max_tokens": 2}}
    answer = client.chat.completions.create(model="any", messages=HELLO, **sampling, extra_body=mtp)
    (choice,) = answer.choices
    assert choice.message.content == alone(tiny, HELLO, **sampling)
    assert choice.finish_reason == "length"
    assert answer.model == "tiny"
    assert answer.object == "chat.completion"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens == len(tiny.tokenizer.encode(tiny.chat_template.render(HELLO)))
    details = answer.usage.completion_tokens_details
    assert details.accepted_prediction_tokens + details.rejected_prediction_tokens > 10
    assert client.models.list().data[0].id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_stream_says_what_one_answer_says(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 20, "seed": 1, "n": 2}
    whole = client.chat.completions.create(**asked)
    ChatCompletion.model_validate(whole.model_dump(exclude_unset=True))
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts, reasons = ["", ""], [None, None]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        assert chunk.id == chunks[0].id
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == ["length", "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.choices for chunk in without)


def test_stop_strings_and_biases(client: openai.OpenAI, tiny: offload.LanguageModel) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0}
    text = client.chat.completions.create(**asked).choices[0].message.content
    stop = text[12:16]
    (choice,) = client.chat.completions.create(**asked, stop=[stop]).choices
    assert choice.message.content == text[: text.index(stop)].rstrip() or text.startswith(choice.message.content)
    assert stop not in choice.message.content
    assert choice.finish_reason == "stop"
    token_id = tiny.tokenizer.encode("zz")[0]
    (choice,) = client.chat.completions.create(**asked, logit_bias={str(token_id): 100.0}).choices
    assert choice.message.content == tiny.tokenizer.decode([token_id]) * 40


@pytest.mark.parametrize("speculative", [{"type": "off"}, {"type": "mtp", "max_tokens": 2}, {"type": "ngram"}, {}])
def test_drafts_are_chosen_by_request(client: openai.OpenAI, speculative: dict[str, object]) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "seed": 3}
    plain = client.chat.completions.create(**asked)
    answer = client.chat.completions.create(**asked, extra_body={"speculative": speculative})
    assert answer.choices[0].message.content == plain.choices[0].message.content
    drafted = answer.timings["draft_n"]
    assert drafted == 0 if speculative == {"type": "off"} else answer.timings["draft_n_accepted"] <= drafted
    if speculative == {"type": "mtp", "max_tokens": 2}:
        assert drafted > 20


def test_ways_to_turn_reasoning_off(client: openai.OpenAI, tiny: offload.LanguageModel) -> None:
    ways = (
        {"enable_thinking": False}, {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    )  # fmt: skip
    num_tokens = len(tiny.tokenizer.encode(tiny.chat_template.render(HELLO, enable_thinking=False)))
    for way in ways:
        answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1, extra_body=way)
        assert answer.usage.prompt_tokens == num_tokens


def test_unknown_parameters_are_ignored(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=2, user="me", service_tier="auto", store=False, metadata={"a": "b"},
        parallel_tool_calls=True, prompt_cache_key="k", extra_body={"frobnicate": [1, {"x": None}]},
    )  # fmt: skip
    assert answer.usage.completion_tokens == 2


def test_tokens_say_which_were_drafted(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "temperature": 0}
    mtp = {"speculative": {"type": "mtp", "max_tokens": 1}, "return_tokens": True}
    answer = client.chat.completions.create(**asked, extra_body=mtp)
    tokens = answer.choices[0].tokens
    assert "".join(token["text"] for token in tokens).endswith(answer.choices[0].message.content)
    assert len(tokens) == 30
    assert sum(token["drafted"] for token in tokens) == answer.timings["draft_n_accepted"] > 0


# ---- completions


def test_completions(client: openai.OpenAI, tiny: offload.LanguageModel) -> None:
    prompts = ["def fib(n):", "It was a"]
    answer = client.completions.create(model="tiny", prompt=prompts, max_tokens=12, seed=2, echo=True, temperature=0.5)
    expected = [p + tiny.generate(p, max_tokens=12, seed=2, temperature=0.5).finish().text for p in prompts]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage.prompt_tokens == sum(len(tiny.tokenizer.encode(p)) for p in prompts)
    as_tokens = client.completions.create(
        model="tiny", prompt=[tiny.tokenizer.encode(p) for p in prompts], max_tokens=12, seed=2, echo=True,
        temperature=0.5,
    )  # fmt: skip
    assert [choice.text for choice in as_tokens.choices] == expected
    asked = {"model": "tiny", "prompt": tiny.tokenizer.encode(prompts[0]), "max_tokens": 12, "seed": 2}
    chunks = list(client.completions.create(**asked, temperature=0.5, stream=True))
    assert prompts[0] + "".join(chunk.choices[0].text for chunk in chunks) == expected[0]
    assert chunks[-1].choices[0].finish_reason == "length"


# ---- log-probabilities and forms


def test_logprobs(client: openai.OpenAI, tiny: offload.LanguageModel) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0, "logprobs": True}
    asked["extra_body"] = {"enable_thinking": False}
    (choice,) = client.chat.completions.create(**asked, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens).lstrip("\n") == choice.message.content
    prompt = tiny.tokenizer.encode(tiny.chat_template.render(HELLO, enable_thinking=False))
    written = [tiny.tokenizer.encode(token.token)[0] for token in tokens]
    scores = tiny.logits(prompt + written)[len(prompt) - 1 : -1].astype(float)
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    for token, token_id, row in zip(tokens, written, expected, strict=True):
        assert token.logprob == pytest.approx(row[token_id], abs=1e-9)
        assert [best.logprob for best in token.top_logprobs] == pytest.approx(sorted(row)[:-4:-1], abs=1e-9)
        assert token.top_logprobs[0].token == token.token
        assert bytes(token.bytes).decode(errors="replace") == token.token
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True, top_logprobs=3)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == tokens
    (plain,) = client.chat.completions.create(**asked | {"logprobs": False}).choices
    assert plain.logprobs is None


def test_logprobs_of_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="def f", max_tokens=8, logprobs=2, seed=1)
    (choice,) = answer.choices
    Completion.model_validate(answer.model_dump(exclude_unset=True))
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.top_logprobs) == 8
    assert choice.logprobs.text_offset[0] == 0
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)


class City(pydantic.BaseModel):
    name: Literal["Rome", "Oslo"]
    coastal: bool


@pytest.mark.parametrize("thinks", [True, False])
def test_answers_follow_a_schema(client: openai.OpenAI, thinks: bool) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 400, "seed": 1, "response_format": City}
    answer = client.chat.completions.parse(**asked, extra_body={"enable_thinking": thinks})
    assert isinstance(answer.choices[0].message.parsed, City)
    assert answer.choices[0].finish_reason == "stop"
    off = {"enable_thinking": thinks, "speculative": {"type": "off"}}
    plain = client.chat.completions.parse(**asked, extra_body=off)
    assert plain.choices[0].message == answer.choices[0].message


# ---- tools and reasoning


@pytest.fixture
def scripted(tiny: offload.LanguageModel) -> Iterator[tuple[ScriptedLoop, openai.OpenAI]]:
    loop = ScriptedLoop(tiny, [CALL])
    with served(loop) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield loop, client


def test_tools(scripted: tuple[ScriptedLoop, openai.OpenAI], tiny: offload.LanguageModel) -> None:
    loop, client = scripted
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Wetter?"}]
    (choice,) = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS).choices
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)
    assert choice.message.content == "One moment."
    assert choice.message.reasoning_content == "Look it up."
    assert choice.finish_reason == "tool_calls"
    prompt = tiny.tokenizer.decode(loop.requests[0].token_ids, skip_special=False)
    assert json.dumps(TOOLS[0]) in prompt
    assert "<|system|>\nBe brief.<|user|>\nWetter?<|assistant|>" in prompt
    # and back again
    messages += [choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
    prompt = tiny.tokenizer.decode(loop.requests[1].token_ids, skip_special=False)
    assert CALL.strip() in prompt
    assert prompt.endswith("<|observation|>\n<tool_response>\nrain\n</tool_response><|assistant|>")


def test_tools_streamed(scripted: tuple[ScriptedLoop, openai.OpenAI]) -> None:
    _, client = scripted
    messages = [{"role": "user", "content": "Wetter?"}]
    with client.chat.completions.stream(model="tiny", messages=messages, tools=TOOLS) as stream:
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)
    assert call.id.startswith("call_")
    assert choice.finish_reason == "tool_calls"
    pieces = [
        chunk.choices[0].delta.tool_calls[0].function.arguments
        for chunk in client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, stream=True)
        if chunk.choices and chunk.choices[0].delta.tool_calls
    ]
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == ARGUMENTS


def test_choices_of_tools(scripted: tuple[ScriptedLoop, openai.OpenAI], tiny: offload.LanguageModel) -> None:
    loop, client = scripted
    asked = {"model": "tiny", "messages": HELLO, "tools": TOOLS}
    (choice,) = client.chat.completions.create(**asked, tool_choice="none").choices
    assert choice.message.tool_calls is None
    assert "<tool_call>" in choice.message.content
    loop.texts = ["<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"]
    assert loop.requests[-1].grammar is None
    named = {"type": "function", "function": {"name": "weather"}}
    (choice,) = client.chat.completions.create(**asked, tool_choice=named).choices
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "x"}
    prompt = tiny.tokenizer.decode(loop.requests[-1].token_ids, skip_special=False)
    assert prompt.endswith("<|assistant|>\n<think></think>\n")
    assert loop.requests[-1].grammar.calls.forced
    client.chat.completions.create(**asked, tool_choice="required", extra_body={"enable_thinking": True})
    assert tiny.tokenizer.decode(loop.requests[-1].token_ids, skip_special=False).endswith("<|assistant|>")
    with pytest.raises(openai.BadRequestError, match="tool_choice asks for 'wind'; the tools are: weather"):
        client.chat.completions.create(**asked, tool_choice={"type": "function", "function": {"name": "wind"}})


def test_numbers_as_other_servers_name_them(scripted: tuple[ScriptedLoop, openai.OpenAI]) -> None:
    """-1 for no limit, and llama.cpp's names of penalties."""
    loop, client = scripted
    more = {"top_k": -1, "repeat_penalty": 1.5, "repeat_last_n": 7}
    client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=-1, extra_body=more)
    sampling = loop.requests[-1].sampling
    assert (sampling.top_k, sampling.repetition_penalty, sampling.penalty_last_n) == (0, 1.5, 7)
    assert loop.requests[-1].max_tokens == 1 << 31
    for name in ("top_k", "max_tokens", "repeat_last_n"):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=HELLO, extra_body={name: -2})


def test_values_that_no_json_reader_takes_break_no_answer(tiny: offload.LanguageModel) -> None:
    """Half a surrogate pair, streamed or not."""
    call = '<tool_call>weather<arg_key>where</arg_key><arg_value>{"a": "\\ud800"}</arg_value></tool_call>'
    with served(ScriptedLoop(tiny, [call])) as address:
        body = {"messages": HELLO, "tools": TOOLS}
        (choice,) = httpx.post(f"{address}/v1/chat/completions", json=body).json()["choices"]
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"where": {"a": "\ufffd"}}
        assert httpx.post(f"{address}/v1/chat/completions", json=body | {"stream": True}).text.endswith("[DONE]\n\n")


# ---- errors


CALL_OF_NO_JSON = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{bad"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": "hot"}, "temperature: Input should be a valid number, found 'hot'"),
        ({"temperature": -1}, "temperature is -1.*; the legal range is 0.0..100.0"),
        ({"top_p": 7}, "top_p is 7.*; the legal range is 0.0..1.0"),
        ({"messages": []}, "there are no messages"),
        ({"messages": "hello"}, "messages: Input should be a valid list"),
        ({"messages": [{"content": "x"}]}, "messages.0.role: Field required"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of the content"),
        ({"n": 99}, "at most 16 answers"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1, found 0"),
        ({"logit_bias": {"x": 1}}, "the keys must be token ids"),
        ({"logit_bias": {"70000": 1}}, "logit_bias names token 70000"),
        ({"tools": [{"type": "function"}]}, "tools.0.function: Field required"),
        (
            {"messages": [{"role": "pirate", "content": "x"}]},
            r"messages\.0\.role: Input should be 'system', .*'pirate'",
        ),
        (
            {"messages": [*HELLO, {"role": "assistant", "tool_calls": 5}]},
            "tool_calls of message 1 must be a list, found 5",
        ),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [CALL_OF_NO_JSON]}]}, "arguments .* are no JSON"),
        ({"logit_bias": {"-1": 1}}, "the keys must be token ids"),
        ({"logit_bias": {"٣": 1}}, "the keys must be token ids"),
        ({"stop": ["x"] * 5000}, "stop: List should have at most 16 items"),
        ({"stop": 7}, "stop: Input should be a valid string, found 7"),
        ({"extra_body": {"speculative": {"type": "magic"}}}, "speculative.type: Input should be 'auto'"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, "fit into the context"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "'messages' cannot be given"),
    ],
)
def test_errors(client: openai.OpenAI, changes: dict[str, object], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO} | changes)
    assert caught.value.type == "invalid_request_error"


def test_errors_name_their_place(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature="hot")
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="'big' is not served here"):
        client.models.retrieve("big")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x " * 9000)
    assert caught.value.code == "context_length_exceeded"
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{address}/v1/completions").status_code == 405


def test_keys(loop: ServingLoop) -> None:
    with served(loop, api_keys=("right", "other")) as address:
        for key in ("right", "other"):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
                assert client.models.list().data
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"),
        ):
            client.models.list()
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        for path in ("/metrics", "/slots", "/openapi.json", "/v1/models"):
            assert httpx.get(address + path).status_code == 401
            assert httpx.get(address + path, headers={"x-api-key": "right"}).status_code == 200
