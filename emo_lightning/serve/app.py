"""The application: the routes for programs, the page, and what watches over a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response

from emo_lightning.core.colours import EMOTION_COLOURS
from emo_lightning.core.web.local_pages import PAGE_MEDIA_TYPES, page_files
from emo_lightning.serve.api import ServiceDependency
from emo_lightning.serve.api import api_router as api
from emo_lightning.serve.description import description_page, openapi_schema
from emo_lightning.serve.door import Door, Gate
from emo_lightning.serve.failures import ApiError, ClientGoneError, on_api_error, on_bug, on_gone, on_http_error
from emo_lightning.serve.neighbours import NO_INDEX
from emo_lightning.serve.service import Service

SERVE_PAGE_FOLDER = Path(__file__).with_name("page")

page_router = APIRouter(include_in_schema=False)


def make_app(service: Service, gate: Gate) -> Door:
    """The whole application.

    Args:
        service: the model; it is closed when the server ends.
        gate: who may ask.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    # Its own pages load scripts from elsewhere.
    app = FastAPI(title="emo serve", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.service = service
    app.include_router(api)
    app.include_router(page_router)
    for kind, handler in (
        (ApiError, on_api_error),
        (ClientGoneError, on_gone),
        (ClientDisconnect, on_gone),
        (HTTPException, on_http_error),
        (RequestValidationError, _on_wrong_query),
        (Exception, on_bug),
    ):
        app.add_exception_handler(kind, handler)
    return Door(app, gate, service.limits, service.measured)


async def _on_wrong_query(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError | ValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param}: {first['msg']}", code, param).response()


@page_router.get("/")
async def index() -> Response:
    """The page."""
    return _file("index.html")


@page_router.get("/page/{name}")
async def part(name: str) -> Response:
    """A part of the page."""
    return _file(name)


@page_router.get("/page-data")
async def data(service: ServiceDependency) -> Response:
    """What the page has to know."""
    about = {**asdict(service.about), "colours": EMOTION_COLOURS, "max_body": service.limits.body}
    images = None if service.index is None else len(service.index)
    return JSONResponse({**about, "index": images, "how_to_index": NO_INDEX})


@page_router.get("/docs")
async def docs(request: Request) -> Response:
    """The description of the API, for people."""
    return HTMLResponse(description_page(openapi_schema(request.app)))


@page_router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The description of the API, for programs."""
    return JSONResponse(openapi_schema(request.app))


@page_router.get("/health")
async def health(service: ServiceDependency) -> Response:
    """Whether it works."""
    well = service.batcher.alive
    return JSONResponse({"status": "ok" if well else "the model's thread has ended"}, 200 if well else 503)


@page_router.get("/metrics")
async def metrics(service: ServiceDependency) -> Response:
    """Metrics for Prometheus."""
    return Response(service.measured.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _file(name: str) -> Response:
    file = page_files(SERVE_PAGE_FOLDER).get(name)
    if file is None:
        raise ApiError(404, f"{name[:80]!r}: no such file of the page", "not_found")
    return Response(file.read_bytes(), headers={"Content-Type": f"{PAGE_MEDIA_TYPES[file.suffix]}; charset=utf-8"})
