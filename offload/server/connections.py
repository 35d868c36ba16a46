"""Connections: how many there may be, and how long each may say half a request or leave its answer unread.

uvicorn's own limit sees a connection only once it has sent a request, and its timeouts end none that never does.
"""

import asyncio
import json

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError, error_response
from .options import ServerOptions

REFUSED = 64  # connections beyond the limit that are told so; further ones are cut
UNREAD_S = 60.0  # for a client to read what fills the buffers


class LimitedProtocol(H11Protocol):
    """HTTP on one connection, within the limits of `options`."""

    options: ServerOptions

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        beyond = len(self.connections) - self.options.max_connections
        if beyond > REFUSED:
            transport.abort()
            return
        if beyond > 0:
            self.app = _refuse
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._unread_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer:
            self._unread_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        self._end(ApiError(400, "this is no request of HTTP/1.1, or its header is larger than 64 KiB"))

    def _watch_head(self) -> None:
        """A request's header must be whole in time; bodies are watched by those who read them."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        elif not is_answering and not self._head_timer:
            self._head_timer = self.loop.call_later(self.options.body_timeout_s, self._too_late)

    def _too_late(self) -> None:
        limit = f"the request took longer than {self.options.body_timeout_s:g} s to come"
        self._end(ApiError(408, limit))

    def _end(self, error: ApiError) -> None:
        """Closes the connection, with an answer where none is under way."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body(anthropic=False)).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            response = h11.Response(status_code=error.status, headers=list(headers.items()))
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def limited_protocol(options: ServerOptions) -> type[LimitedProtocol]:
    """The protocol of a server with these options."""
    return type("LimitedProtocol", (LimitedProtocol,), {"options": options})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """What a connection too many is told."""
    error = ApiError(503, "too many connections: try again, or raise --max-connections", "too_many_connections")
    response = error_response(error, scope["path"])
    response.headers["connection"] = "close"
    await response(scope, receive, send)
