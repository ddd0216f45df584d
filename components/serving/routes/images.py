"""`POST /v1/images/generations`, as OpenAI's clients call it."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from components.modalities.image import ImageRequest
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.models import find


def router(catalog: Catalog) -> APIRouter:
    """The routes that draw with the models in `catalog`."""
    routes = APIRouter()

    @routes.post("/v1/images/generations")
    async def generate(body: ImageRequest) -> JSONResponse:
        loaded = find(catalog, body.model)
        requests, seed = loaded.requests(body)
        output = await asyncio.wrap_future(loaded.engine.submit(requests))
        files = await asyncio.to_thread(loaded.encode, output, body)
        data = [
            {"b64_json": b64encode(file).decode("ascii"), "seed": own}
            for file, own in zip(files, requests.seed.tolist(), strict=True)
        ]
        content: dict[str, Any] = {"created": int(time.time()), "data": data}
        return JSONResponse(content, headers=headers(loaded, seed))

    return routes


def headers(loaded: Loaded, seed: int) -> dict[str, str]:
    """What is needed to draw the same again, bit for bit."""
    return {
        "x-genloom-model": loaded.served.product,
        "x-genloom-version": str(loaded.served.version),
        "x-genloom-width": str(loaded.engine.width),
        "x-genloom-seed": str(seed),
    }
