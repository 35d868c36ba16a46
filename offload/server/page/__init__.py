"""The page at /: a chat with what the model and its drafts do beside it. Plain files; nothing comes from elsewhere."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FILES = Path(__file__).parent / "files"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # after an update old and new files must not mix
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serves the page at / and what it needs below /page/."""

    async def index() -> FileResponse:
        return FileResponse(FILES / "index.html", headers=HEADERS)

    app.mount("/page", _Files(directory=FILES), name="page")
    app.add_api_route("/", index, include_in_schema=False)
