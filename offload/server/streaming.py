"""Chunks of OpenAI's protocol as server-sent events."""

from collections.abc import AsyncIterator
from typing import Any

from .answers import AnswerStream
from .errors import api_error
from .sse import EventStream, event, with_signs_of_life
from .types import Sampling


def openai_stream(chunks: AsyncIterator[dict[str, Any]], stream: AnswerStream, body: Sampling) -> EventStream:
    """The response that sends them. An error ends it as an event of its own."""
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    return EventStream(with_signs_of_life(_events(chunks, with_usage), ": waiting\n\n"), stream.close)


async def _events(chunks: AsyncIterator[dict[str, Any]], with_usage: bool) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            if chunk["choices"] or with_usage:
                yield event(chunk)
    except Exception as error:
        yield event(api_error(error).body(anthropic=False))
    yield "data: [DONE]\n\n"
