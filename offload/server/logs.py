"""One line of JSON for each request, without what was asked or answered."""

import json
import logging
import secrets
import time
import warnings
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import GONE, log
from .metrics import Metrics

PATHS = 40  # characters of a path that are logged


class RequestLog:
    """Numbers requests, logs them as they end, and counts them.

    Handlers add to `scope["log"]` what is to be in the line.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.monotonic(), GONE
        scope["log"] = {}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            fields = {"id": request_id, "method": scope["method"], "path": scope["path"][:PATHS], "status": status}
            log.info("request", extra={"fields": fields | {"s": round(time.monotonic() - began, 4)} | scope["log"]})


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(level: str) -> None:
    """Sends the server's records, and warnings of all the code, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("offload.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper() if name == "offload.server" else logging.WARNING)
    warnings.showwarning = lambda message, *place, **more: log.warning(str(message))
