"""`GET /metrics`: the replica's counters for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from components.serving.metrics import Metrics


def router(metrics: Metrics) -> APIRouter:
    """The route of `metrics`."""
    routes = APIRouter()

    @routes.get("/metrics")
    async def read() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
