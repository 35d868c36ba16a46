"""Runs a request whose answer is not streamed, as long as its client is there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from .answers import AnswerStream
from .errors import ClientGone

T = TypeVar("T")


async def unless_gone(request: Request, stream: AnswerStream, fold: Coroutine[Any, Any, T]) -> T:
    """What `fold` makes of the stream.

    Raises:
        ClientGone: nobody waits for it any more; the stream is closed.
    """
    folding, gone = asyncio.create_task(fold), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({folding, gone}, return_when=asyncio.FIRST_COMPLETED)
        if folding.done():
            return folding.result()
        raise ClientGone
    finally:
        stream.close()
        folding.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
