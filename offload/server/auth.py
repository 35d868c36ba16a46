"""API keys, as a bearer token or in the header x-api-key."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError, error_response

PUBLIC = ("/", "/docs", "/health", "/favicon.ico")  # and all that lies under /page/


class ApiKeys:
    """Lets requests through that name one of the keys; the pages and /health need none."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]):
        self.app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_public(scope["path"]) or self._is_known(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = ApiError(401, "the API key is missing or wrong: send Authorization: Bearer KEY", "invalid_api_key")
        await error_response(error, scope["path"])(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in PUBLIC or path.startswith("/page/")

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        found = [hmac.compare_digest(given.encode("latin-1", "replace"), key) for key in self._keys]
        return any(found)  # all were compared: the time says nothing about which
