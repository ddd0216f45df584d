"""`GET /v1/models`: what is served, as OpenAI lists it, with the version and its origin."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from components.errors import unknown
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.errors import UnknownModelError


def router(catalog: Catalog) -> APIRouter:
    """The routes of the models in `catalog`."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(loaded) for loaded in catalog.loaded.values()]}

    @routes.get("/v1/models/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        return describe(find(catalog, name))

    return routes


def find(catalog: Catalog, name: str | None) -> Loaded:
    """The model that a request names; without a name, the only one. Raises `UnknownModelError`."""
    known = catalog.loaded
    if name is None:
        if len(known) != 1:
            raise UnknownModelError(f"Set “model” to one of the models that are served: {', '.join(known)}.")
        return next(iter(known.values()))
    if name not in known:
        raise UnknownModelError(str(unknown("model", name, known)))
    return known[name]


def describe(loaded: Loaded) -> dict[str, Any]:
    """OpenAI's model object; the fields from `version` on are ours."""
    model, served = loaded.model, loaded.served
    return {
        "id": served.product,
        "object": "model",
        "created": served.created,
        "owned_by": "genloom",
        "version": served.version,
        "family": type(model.family).__module__.rpartition(".")[2],
        "modality": model.about.modality,
        "shape": list(model.shape.data),
        "dataset": model.about.dataset,
        "licence": model.about.licence,
        "run": model.about.run,
        "digest": model.digest,
        "width": loaded.engine.width,
        "threads": loaded.engine.threads,
    }
