"""What goes wrong, in the shapes that clients of OpenAI's and of Anthropic's protocol read."""

import json
import logging
import re
import reprlib
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from ..errors import Closing, ContextFull, MoeOffloadError, NoScores, QueueFull, Unavailable

ANTHROPIC_PATH = "/v1/messages"
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}
ANTHROPIC_TYPES = TYPES | {413: "request_too_large", 500: "api_error"}
OPENAI_TYPES = TYPES | {500: "server_error", 503: "server_error"}
UNAVAILABLE = {QueueFull: "queue_full", Closing: "shutting_down"}
GONE = 499  # nginx's number for a client that went away
BRANCH = re.compile(r"^(constrained-)?(str|int|float|list|dict)$|\[|^[A-Z]")  # of a union: it stands in no body
NO_JSON = "the body must be JSON, sent with the header Content-Type: application/json"

log = logging.getLogger("offload.server")


class ApiError(Exception):
    """An answer other than the one that was asked for.

    Args:
        status: of HTTP.
        message: what is wrong, the legal range and the fix.
        code: for programs.
        param: the parameter at fault.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self, anthropic: bool) -> dict[str, Any]:
        if anthropic:
            kind = ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        kind = OPENAI_TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ClientGone(Exception):  # noqa: N818 - it says what happened
    """The client went away before its answer was there."""


def api_error(error: Exception) -> ApiError:
    """Any error as one that clients can read; an unknown one keeps its details to the log."""
    match error:
        case ApiError():
            return error
        case ContextFull():
            return ApiError(400, str(error), "context_length_exceeded", "messages")
        case Unavailable():
            return ApiError(503, str(error), UNAVAILABLE.get(type(error), "engine_failed"))
        case NoScores():
            return ApiError(500, str(error), "no_scores")
        case MoeOffloadError():
            return ApiError(400, str(error))
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return ApiError(error.status_code, str(error.detail))
    log.error("internal error", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why", "internal_error")


def error_response(error: ApiError, path: str) -> Response:
    # ASCII, since a text that comes back in a message may hold half a surrogate pair
    body = json.dumps(error.body(path.startswith(ANTHROPIC_PATH))).encode()
    headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(error.status)
    return Response(body, error.status, headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        response = error_response(api_error(error), request.url.path)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    async def nobody(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    app.add_exception_handler(ClientGone, nobody)
    for kind in (ApiError, MoeOffloadError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _invalid(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by its place in it; of a union the branch that it comes closest to."""
    first, *others = error.errors()
    alike = [first, *(e for e in others if e["loc"][:2] == first["loc"][:2])]  # branches of the same parameter's union
    found = max(alike, key=lambda e: (len(e["loc"]), not e["type"].endswith("_type")))
    place = ".".join(str(part) for part in found["loc"][1:] if not BRANCH.search(str(part)))
    if found["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {found['ctx']['error']}", "invalid_json")
    if not place:
        return ApiError(400, NO_JSON, "invalid_json")
    value = "" if found["type"] == "missing" else f", found {reprlib.repr(found.get('input'))}"
    return ApiError(400, f"{place}: {found['msg']}{value}", "invalid_value", place)
