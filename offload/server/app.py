"""The application: routes, and what every request passes before it reaches one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from . import chat, completions, info, messages, texts
from .auth import ApiKeys
from .body import BodyLimits
from .errors import add_error_handlers
from .logs import RequestLog
from .service import Service

PAGE = Path(__file__).parent / "page"


def create_app(service: Service) -> FastAPI:
    """The application of a service; the service's loop is closed with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(title="moe-offload", version=version("moe-offload"), lifespan=lifespan)
    app.state.service = service
    for module in (chat, completions, messages, texts, info):
        app.include_router(module.router)
    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")
        app.add_api_route("/", lambda: FileResponse(PAGE / "index.html"), include_in_schema=False)
    add_error_handlers(app)
    options = service.options
    app.add_middleware(BodyLimits, options=options)  # the innermost
    if options.api_keys:
        app.add_middleware(ApiKeys, keys=options.api_keys)
    if options.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.cors_origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app
