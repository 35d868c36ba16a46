"""Chat completions as chunks: sent one by one, or folded into one answer."""

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

from ..chat import ChatParser, Delta, ReasoningDelta, TextDelta, ToolArguments, ToolStart
from ..tokenizer import Tokenizer
from .answers import AnswerStream, Ended
from .tokens import chat_logprobs, token_record
from .usage import timings, usage

Json = dict[str, Any]


async def chat_chunks(
    stream: AnswerStream,
    parsers: Sequence[ChatParser],
    opening: str,
    tokenizer: Tokenizer,
    head: Json,
    logprobs: bool = False,
    tokens: bool = False,
) -> AsyncIterator[Json]:
    """Chunks in OpenAI's form; the last one holds the usage.

    Args:
        parsers: of the choices.
        opening: of the answers, which stands in the prompt.
        head: fields that all chunks share.
        logprobs: add log-probabilities, if the answers have them.
        tokens: add the tokens themselves.
    """
    reasoning_tokens = 0
    for i, parser in enumerate(parsers):
        yield _chunk(head, i, {"role": "assistant", "content": ""})
        for delta in parser.push(opening):
            if isinstance(delta, ToolStart | ToolArguments):  # a call that was forced
                yield _chunk(head, i, _delta(delta))
    async for item in stream:
        i, parser = item.choice, parsers[item.choice]
        if isinstance(item, Ended):
            reason = item.answer.result.finish_reason
            for delta in parser.finish(complete=reason == "stop"):
                yield _chunk(head, i, _delta(delta))
            reason = "tool_calls" if reason == "stop" and parser.num_calls else reason
            yield _chunk(head, i, {}, finish_reason=reason) | {"timings": timings(item.answer)}
            continue
        reasoning_tokens += parser.is_reasoning
        deltas = [_delta(delta) for delta in parser.push(item.event.text)]
        more: Json = {}
        if logprobs and (found := chat_logprobs(item.event, tokenizer)):
            more["logprobs"] = {"content": [found], "refusal": None}
        if tokens:
            more["tokens"] = [token_record(item.event)]
        for number, part in enumerate(deltas or ([{}] if more else [])):
            yield _chunk(head, i, part, **(more if number == 0 else {}))
    yield head | {"choices": [], "usage": usage(stream.answers, 1, reasoning_tokens)}


async def folded_chat(chunks: AsyncIterable[Json]) -> Json:
    """The one answer that the chunks make."""
    choices: dict[int, Json] = {}
    whole: Json = {}
    async for chunk in chunks:
        whole |= {key: value for key, value in chunk.items() if key != "choices"}
        for part in chunk["choices"]:
            _add(choices.setdefault(part["index"], {"index": part["index"], "logprobs": None}), part)
    return whole | {"object": "chat.completion", "choices": [_finished(choices[i]) for i in sorted(choices)]}


def _chunk(head: Json, choice: int, delta: Json, **more: Any) -> Json:
    part = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None} | more
    return head | {"choices": [part]}


def _delta(delta: Delta) -> Json:
    match delta:
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case TextDelta(text):
            return {"content": text}
        case ToolStart(index, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": new_id("call"), "type": "function", "function": function}]}
        case ToolArguments(index, fragment):
            return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}


def _add(choice: Json, part: Json) -> None:
    message = choice.setdefault("message", {"role": "assistant", "content": []})
    delta = part["delta"]
    for name in ("content", "reasoning_content"):
        if delta.get(name):
            message.setdefault(name, []).append(delta[name])
    for call in delta.get("tool_calls", []):
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            function = call["function"]
            calls.append(
                {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": []}}
            )
        calls[call["index"]]["function"]["arguments"].append(call["function"]["arguments"])
    if part["logprobs"]:
        choice["logprobs"] = choice["logprobs"] or {"content": [], "refusal": None}
        choice["logprobs"]["content"] += part["logprobs"]["content"]
    if "tokens" in part:
        choice.setdefault("tokens", []).extend(part["tokens"])
    choice["finish_reason"] = part["finish_reason"]


def _finished(choice: Json) -> Json:
    """The pieces of its texts joined; a message with calls alone has no content."""
    message = choice["message"]
    for name in ("content", "reasoning_content"):
        if name in message:
            message[name] = "".join(message[name])
    for call in message.get("tool_calls", []):
        call["function"]["arguments"] = "".join(call["function"]["arguments"])
    if message.get("tool_calls"):
        message["content"] = message["content"] or None
    return choice


def new_id(kind: str) -> str:
    separator = "-" if kind in ("chatcmpl", "cmpl") else "_"
    return f"{kind}{separator}{secrets.token_hex(12)}"
