"""Messages of Anthropic's protocol as events: sent one by one, or folded into one message."""

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from ..chat import ChatParser, Delta, ReasoningDelta, TextDelta, ToolArguments, ToolStart
from ..serving import Answer
from ..tokenizer import Tokenizer
from .answers import AnswerStream, Ended
from .chat_chunks import new_id

Json = dict[str, Any]


async def message_events(
    stream: AnswerStream, parser: ChatParser, opening: str, tokenizer: Tokenizer, model: str
) -> AsyncIterator[Json]:
    """The events of one message, in their order."""
    blocks = _Blocks()
    (answer,) = stream.answers
    yield {
        "type": "message_start",
        "message": {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(answer, output_tokens=0),
        },
    }
    for delta in parser.push(opening):
        if isinstance(delta, ToolStart | ToolArguments):  # a call that was forced
            for event in blocks.add(delta):
                yield event
    async for item in stream:
        if isinstance(item, Ended):
            deltas = parser.finish(complete=answer.result.finish_reason == "stop")
        else:
            deltas = parser.push(item.event.text)
        for delta in deltas:
            for event in blocks.add(delta):
                yield event
    for event in blocks.close():
        yield event
    reason, sequence = _stop(answer, parser, tokenizer)
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
        "usage": _usage(answer, len(answer.result.tokens)),
    }
    yield {"type": "message_stop"}


class _Blocks:
    """Groups deltas into blocks of content."""

    def __init__(self) -> None:
        self._open: object = None  # what the open block is of: a kind of delta, or the number of a call
        self._index = -1

    def add(self, delta: Delta) -> list[Json]:
        match delta:
            case ReasoningDelta(text):
                start = {"type": "thinking", "thinking": "", "signature": ""}
                return self._within(ReasoningDelta, start, {"type": "thinking_delta", "thinking": text})
            case TextDelta(text):
                return self._within(TextDelta, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case ToolStart(index, name):
                return self._within(index, {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": {}}, None)
            case ToolArguments(index, fragment):
                return self._within(index, {}, {"type": "input_json_delta", "partial_json": fragment})

    def close(self) -> list[Json]:
        if self._open is None:
            return []
        last, self._open = self._open, None
        stop = {"type": "content_block_stop", "index": self._index}
        if last is not ReasoningDelta:
            return [stop]
        signature = {"type": "signature_delta", "signature": "none"}  # clients send it back; nothing here checks it
        return [{"type": "content_block_delta", "index": self._index, "delta": signature}, stop]

    def _within(self, what: object, start: Json, delta: Json | None) -> list[Json]:
        events = []
        if self._open != what:
            events = self.close()
            self._open, self._index = what, self._index + 1
            events.append({"type": "content_block_start", "index": self._index, "content_block": start})
        if delta is not None:
            events.append({"type": "content_block_delta", "index": self._index, "delta": delta})
        return events


async def folded_message(events: AsyncIterable[Json]) -> Json:
    """The one message that the events make. A call whose arguments were cut off is left out."""
    message: Json = {}
    pieces: list[list[str]] = []
    async for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
                pieces.append([])
            case "content_block_delta":
                delta = event["delta"]
                if delta["type"] == "signature_delta":
                    message["content"][-1]["signature"] = delta["signature"]
                else:
                    pieces[-1].append(next(value for key, value in delta.items() if key != "type"))
            case "message_delta":
                message |= event["delta"]
                message["usage"] = event["usage"]
    blocks = zip(message["content"], pieces, strict=True)
    message["content"] = [block for block, texts in blocks if _fill(block, "".join(texts))]
    return message


def _fill(block: Json, text: str) -> bool:
    """Puts its text into a block; False if that is broken off."""
    if block["type"] != "tool_use":
        block[block["type"]] = text
        return True
    try:
        block["input"] = json.loads(text)
    except ValueError:
        return False
    return True


def _usage(answer: Answer, output_tokens: int) -> Json:
    result = answer.result
    return {
        "input_tokens": result.prompt_tokens - result.prompt_reused,
        "cache_read_input_tokens": result.prompt_reused,
        "cache_creation_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _stop(answer: Answer, parser: ChatParser, tokenizer: Tokenizer) -> tuple[str, str | None]:
    """Why the message ended, and the stop sequence that ended it."""
    result = answer.result
    if result.finish_reason == "length":
        return "max_tokens", None
    if result.tokens and result.tokens[-1] not in tokenizer.end_of_generation:
        text = tokenizer.decode(result.tokens)
        found = [stop for stop in answer.request.stop if stop in text]
        return "stop_sequence", min(found, key=text.index, default=None)
    return "tool_use" if parser.num_calls else "end_turn", None
