"""The web application of one replica: all routes over one catalog; it runs under Ray Serve or any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.types import ASGIApp

from components.modalities.completion import ChatRequest, CompletionRequest
from components.modalities.designing import MoleculeRequest
from components.modalities.drawing import ImageRequest
from components.modalities.editing import ImageEditRequest, ImageVariationRequest
from components.modalities.forecast import SeriesRequest
from components.modalities.playing import MusicRequest
from components.modalities.speech import SoundRequest, SpeechRequest
from components.serving.access_log import AccessLog
from components.serving.catalog import Catalog
from components.serving.exposition import Exposition, Member
from components.serving.jobs import JobRequest, Jobs
from components.serving.metrics import Metrics, Watched
from components.serving.records import Recorder
from components.serving.routes import (
    chat,
    completions,
    description,
    generations,
    health,
    images,
    labels,
    metrics,
    models,
    speech,
)
from components.serving.routes import jobs as job_routes
from components.serving.routes.access import Access, Doorkeeper
from components.serving.routes.bodies import Bodies, Room
from components.serving.routes.direct import Direct, of_requests
from components.serving.routes.errors import install, respond
from components.serving.routes.naming import Recorded, RequestName

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/images/generations": ImageRequest,
    "/v1/images/edits": ImageEditRequest,
    "/v1/images/variations": ImageVariationRequest,
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    models.SPEAK: SpeechRequest,
}
"""What each route takes."""
UPLOADS = frozenset(
    {"/v1/images/edits", "/v1/images/variations", generations.GENERATE, "/v1/jobs", labels.READ}
)
"""The routes that take files."""


def create_app(
    catalog: Catalog,
    access: Access | None = None,
    closing: Callable[[], None] = lambda: None,
    recorder: Recorder | None = None,
    jobs: Jobs | None = None,
    member: Member | None = None,
    reader: labels.Reader | None = None,
    log: AccessLog | None = None,
) -> FastAPI:
    """The routes over `catalog`, which is closed when the application ends; `access` says who is let in.

    `closing` is called before the catalog is closed. `recorder`, which is closed after it, keeps a record of what
    is generated. Without `jobs` there are no routes for long work. `member` is this replica among others.
    `reader` says what a file tells of its origin; without it nobody can ask that here. `log` keeps a line of each
    request.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """What runs beside the routes, and what is closed after them, in this order."""
        over = asyncio.Event()
        leaving = asyncio.create_task(exposition.keep_leaving(over))
        yield
        over.set()
        async with AsyncExitStack() as last:  # whatever one of them raises, the others are closed
            last.push_async_callback(lambda: leaving)
            if log is not None:
                last.callback(log.close)
            if recorder is not None:
                last.callback(recorder.close)
            last.callback(catalog.close)
            last.callback(closing)

    # the scripts of the pages lie in the package: nothing is loaded from elsewhere
    app = FastAPIOffline(title="Genloom", version=version("genloom"), redoc_url=None, lifespan=lifespan)
    install(app, BODIES)
    routed = (models, images, completions, chat, speech, generations, health)
    parts = [part.router(catalog) for part in routed]
    for part in parts:
        app.include_router(part)
    if jobs is not None:
        app.include_router(job_routes.router(catalog, jobs))
    if reader is not None:
        app.include_router(labels.router(reader))
    watch = Metrics(catalog, description.paths(app) | {"/metrics"}, jobs)
    exposition = Exposition(watch, member)
    app.include_router(metrics.router(exposition))
    own = (SoundRequest, MusicRequest, SeriesRequest, MoleculeRequest, JobRequest, labels.LabelRequest)
    description.install(app, [*BODIES.values(), *own])
    # ours stand before FastAPI's own middleware, which costs more than all of them
    direct = Direct(app.build_middleware_stack(), of_requests(parts), BODIES)
    front: ASGIApp = Bodies(direct, UPLOADS, Room())
    front = front if recorder is None else Recorded(front, recorder)
    front = front if access is None else Doorkeeper(front, access)
    app.middleware_stack = RequestName(Watched(front, watch, partial(respond, bodies=BODIES), log))
    return app
