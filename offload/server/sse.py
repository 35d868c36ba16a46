"""Server-sent events, with a sign of life while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

ALIVE_S = 10.0  # between signs of life, which keep proxies and clients waiting


class EventStream(StreamingResponse):
    """Streams texts, and calls `on_close` when they end or the client goes."""

    media_type = "text/event-stream"

    def __init__(self, texts: AsyncIterator[str], on_close: Callable[[], None]):
        super().__init__(texts, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


def event(data: Any, name: str = "") -> str:
    """One event; `data` is JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def with_signs_of_life(texts: AsyncIterator[str], sign: str, every_s: float = ALIVE_S) -> AsyncIterator[str]:
    """The texts, and `sign` wherever none comes for so long."""
    following = asyncio.ensure_future(anext(texts, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=every_s)
            if not done:
                yield sign
                continue
            text = following.result()
            if text is None:
                return
            following = asyncio.ensure_future(anext(texts, None))
            yield text
    finally:
        following.cancel()
