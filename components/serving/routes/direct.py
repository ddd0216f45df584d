"""The short way to the routes that generate: past FastAPI, whose machinery costs as much as a small model does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import signature
from typing import TypeAlias

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from components.serving.routes.errors import FORESEEN, respond
from components.serving.routes.paths import route_of

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Direct:
    """The innermost middleware: a POST to one of `endpoints` is answered by it, everything else by the application.

    `bodies` are what each path takes, for the words of an error. What nobody foresaw is left to those further out.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Mapping[str, Endpoint], bodies: Mapping[str, type[BaseModel]]
    ) -> None:
        self.app, self.endpoints, self.bodies = app, endpoints, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        here = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self.endpoints.get(route_of(scope)) if here else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except FORESEEN as error:
            response = respond(request, error, self.bodies)
        await response(scope, receive, send)


def of_requests(routers: Iterable[APIRouter]) -> Mapping[str, Endpoint]:
    """The endpoints of POST that read the request themselves: FastAPI would only look that there is nothing to do."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {
        route.path: route.endpoint
        for route in routes
        if "POST" in (route.methods or ()) and [*signature(route.endpoint).parameters] == ["request"]
    }
