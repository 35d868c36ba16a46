"""Bodies of requests: their size, the time they may take to come, and strict JSON."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .options import ServerOptions

DRAINED = 4  # times the largest body: so much is read and dropped, so that the client gets to see why


class BodyLimits:
    """Refuses bodies that are too large or too slow, before more of them than that is in memory."""

    def __init__(self, app: ASGIApp, options: ServerOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _LimitedReceive(receive, self.options)
        await self.app(scope, receive, send)


class _LimitedReceive:
    def __init__(self, receive: Receive, options: ServerOptions):
        self._receive, self._options = receive, options
        self._ends_at = time.monotonic() + options.body_timeout_s
        self._num_bytes = 0
        self._is_complete = False

    async def __call__(self) -> Message:
        if self._is_complete:
            return await self._receive()  # which then waits for the client to go
        message = await self._next()
        most = self._options.max_body_bytes
        if self._num_bytes <= most:
            return message
        while not self._is_complete and self._num_bytes < DRAINED * most:
            await self._next()
        raise HTTPException(413, f"the body is larger than {most} bytes: send less, or raise --max-body")

    async def _next(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), self._ends_at - time.monotonic())
        except TimeoutError:
            limit = f"the body took longer than {self._options.body_timeout_s:g} s to come"
            raise HTTPException(408, limit, {"connection": "close"}) from None
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message


class JsonRoute(APIRoute):
    """Reads bodies as JSON that is neither nested without end nor holds NaN, whatever Python's own parser takes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None
