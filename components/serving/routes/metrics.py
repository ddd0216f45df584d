"""`GET /metrics`: the replica's counters for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from components.serving.metrics import Metrics


def router(metrics: Metrics) -> APIRouter:
    """The route of `metrics`."""
    routes = APIRouter()

    text = {"text/plain": {"schema": {"type": "string"}}}

    @routes.get("/metrics", response_class=Response, responses={200: {"content": text}})
    async def read() -> Response:
        """Prometheus' text of the replica that answers."""
        await metrics.count_jobs()
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
