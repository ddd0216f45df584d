"""The web application of one replica: all routes over one catalog; it runs under Ray Serve or any ASGI server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.modalities.completion import ChatRequest, CompletionRequest
from components.modalities.drawing import ImageRequest
from components.modalities.editing import ImageEditRequest, ImageVariationRequest
from components.serving.catalog import Catalog
from components.serving.metrics import Metrics, Watched
from components.serving.records import ASKING, Asking, Recorder
from components.serving.routes import chat, completions, health, images, metrics, models
from components.serving.routes.access import Access, Doorkeeper
from components.serving.routes.errors import answer, install
from components.serving.routes.paths import route_of

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/images/generations": ImageRequest,
    "/v1/images/edits": ImageEditRequest,
    "/v1/images/variations": ImageVariationRequest,
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}
"""What each route takes."""
LARGEST_BODY = 2**20
"""Bytes of a request's body."""
LARGEST_UPLOAD = 2**25
"""Bytes of a body with pictures."""
UPLOADS = frozenset({"/v1/images/edits", "/v1/images/variations"})
"""The routes that take pictures."""
LONGEST_NAME = 256
"""Characters of a request's name that a record keeps."""


def create_app(
    catalog: Catalog,
    access: Access | None = None,
    closing: Callable[[], None] = lambda: None,
    recorder: Recorder | None = None,
) -> FastAPI:
    """The routes over `catalog`, which is closed when the application ends; `access` says who is let in.

    `closing` is called before the catalog is closed. `recorder`, which is closed after it, keeps a record of what
    is generated.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        closing()
        catalog.close()
        if recorder is not None:
            recorder.close()

    # The interactive pages load scripts from elsewhere; /openapi.json is enough.
    app = FastAPI(
        title="Genloom", version=version("genloom"), docs_url=None, redoc_url=None, lifespan=lifespan
    )
    install(app, BODIES)
    for part in (models, images, completions, chat, health):
        app.include_router(part.router(catalog))
    watch = Metrics(catalog, frozenset(app.openapi()["paths"]) | {"/metrics"})
    app.include_router(metrics.router(watch))
    app.add_middleware(BodyLimit)
    if recorder is not None:
        app.add_middleware(Recorded, recorder=recorder)
    if access is not None:
        app.add_middleware(Doorkeeper, access=access)
    app.add_middleware(Watched, metrics=watch)
    app.add_middleware(RequestName)
    return app


class BodyLimit:
    """Answers 413 to a body of more bytes than its route takes, whether or not it was announced."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, at most the limit, and hand it on in one piece."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = LARGEST_UPLOAD if route_of(scope) in UPLOADS else LARGEST_BODY
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdigit() and int(announced) > most
        body, more = bytearray(), not too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            too_large = len(body) > most
            more = bool(message.get("more_body")) and not too_large
        if too_large:
            response = answer(413, f"The body is larger than {most} bytes; send less.", "too_large")
            await response(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


class Recorded:
    """Says on whose behalf a request generates, so that a record can be kept of it."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self.app, self.recorder = app, recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its name and its key, as those who stand before found them."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        name = str(state.get("request", ""))[:LONGEST_NAME]
        before = ASKING.set(Asking(self.recorder, name, state.get("key"), scope["path"]))
        try:
            await self.app(scope, receive, send)
        finally:
            ASKING.reset(before)


class RequestName:
    """Gives an answer an `x-request-id` where no proxy in front has named the request already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the header to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id")
        name = given or str(uuid.uuid4())
        scope.setdefault("state", {})["request"] = name
        if given is not None:
            await self.app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("x-request-id", name)
            await send(message)

        await self.app(scope, receive, named)
