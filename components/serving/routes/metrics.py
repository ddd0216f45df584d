"""`GET /metrics`: the replicas' counters for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from components.serving.exposition import Exposition


def router(exposition: Exposition) -> APIRouter:
    """The route of `exposition`."""
    routes = APIRouter()

    text = {"text/plain": {"schema": {"type": "string"}}}

    @routes.get("/metrics", response_class=Response, responses={200: {"content": text}})
    async def read() -> Response:
        """Prometheus' text of all replicas of the application."""
        return Response(await exposition.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
