"""The web application of one replica: all routes over one catalog; it runs under Ray Serve or any ASGI server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.modalities.completion import ChatRequest, CompletionRequest
from components.modalities.drawing import ImageRequest
from components.modalities.editing import ImageEditRequest, ImageVariationRequest
from components.serving.catalog import Catalog
from components.serving.jobs import JobRequest, Jobs
from components.serving.metrics import Metrics, Watched
from components.serving.routes import (
    chat,
    completions,
    description,
    generations,
    health,
    images,
    metrics,
    models,
)
from components.serving.routes import jobs as job_routes
from components.serving.routes.access import Access, Doorkeeper
from components.serving.routes.bodies import Bodies, Room
from components.serving.routes.errors import install

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/images/generations": ImageRequest,
    "/v1/images/edits": ImageEditRequest,
    "/v1/images/variations": ImageVariationRequest,
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}
"""What each route takes."""
UPLOADS = frozenset({"/v1/images/edits", "/v1/images/variations", generations.GENERATE})
"""The routes that take pictures."""


def create_app(
    catalog: Catalog,
    access: Access | None = None,
    closing: Callable[[], None] = lambda: None,
    jobs: Jobs | None = None,
) -> FastAPI:
    """The routes over `catalog`, which is closed when the application ends; `access` says who is let in.

    `closing` is called before the catalog is closed. Without `jobs` there are no routes for long work.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        closing()
        catalog.close()

    # the scripts of the pages lie in the package: nothing is loaded from elsewhere
    app = FastAPIOffline(title="Genloom", version=version("genloom"), redoc_url=None, lifespan=lifespan)
    install(app, BODIES)
    for part in (models, images, completions, chat, generations, health):
        app.include_router(part.router(catalog))
    if jobs is not None:
        app.include_router(job_routes.router(catalog, jobs))
    watch = Metrics(catalog, description.paths(app) | {"/metrics"})
    app.include_router(metrics.router(watch))
    description.install(app, [*BODIES.values(), JobRequest])
    app.add_middleware(Bodies, uploads=UPLOADS, room=Room())
    if access is not None:
        app.add_middleware(Doorkeeper, access=access)
    app.add_middleware(Watched, metrics=watch)
    app.add_middleware(RequestName)
    return app


class RequestName:
    """Gives an answer an `x-request-id` where no proxy in front has named the request already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the header to its answer."""
        if scope["type"] != "http" or "x-request-id" in Headers(scope=scope):
            await self.app(scope, receive, send)
            return
        name = str(uuid.uuid4())

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("x-request-id", name)
            await send(message)

        await self.app(scope, receive, named)
