"""Names under which the server may be asked, against pages that let their own name point to this machine.

A browser sends the name that its page came from in the header Host. An address cannot be pointed elsewhere, so every
address passes.
"""

from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError, error_response


class AllowedHosts:
    """Refuses requests for other names than localhost and those that are given.

    Args:
        names: without ports; "*" allows all.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]):
        self.app, self._names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_allowed(host := Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
            return
        message = (
            f"this server does not go by the name {host[:100]!r}: ask for localhost, or start it with --allowed-host"
        )
        await error_response(ApiError(403, message, "host_not_allowed"), scope["path"])(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        if not host or "*" in self._names:  # no browser leaves it out
            return True
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name.lower().rstrip(".") in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
