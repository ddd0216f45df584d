"""`GET /health`: 200 with the served versions, 503 while a model cannot answer; `GET /ready` says the same in short."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from components.serving.catalog import Catalog
from components.serving.routes.answers import Health, Ready, also
from components.serving.routes.models import canary_of


def router(catalog: Catalog) -> APIRouter:
    """The health of the models in `catalog`."""
    routes = APIRouter()

    @routes.get("/health", response_model=None, responses=also(Health, 200, 503))
    async def health() -> JSONResponse:
        """The served versions; 503 while one cannot answer."""
        models = [
            {
                "id": name,
                "version": loaded.served.version,
                "waiting": loaded.engine.waiting,
                "canary": canary_of(catalog, name),
            }
            for name, loaded in catalog.loaded.items()
        ]
        models += [
            {"id": name, "version": gone.served.version, "waiting": 0, "canary": None, "withdrawn": gone.why}
            for name, gone in catalog.gone.items()
        ]
        status = "ok" if catalog.healthy else "unhealthy"
        return JSONResponse({"status": status, "models": models}, 200 if catalog.healthy else 503)

    @routes.get("/ready", response_model=None, responses=also(Ready, 200, 503))
    async def ready() -> JSONResponse:
        """Whether every model can answer."""
        return JSONResponse({"ready": catalog.healthy}, 200 if catalog.healthy else 503)

    return routes
