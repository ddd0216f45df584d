"""`POST /v1/images/generations`, as OpenAI's clients call it."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from torch import Tensor

from components.modalities.image import ImageRequest
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.models import find, headers


def router(catalog: Catalog) -> APIRouter:
    """The routes that draw with the models in `catalog`."""
    routes = APIRouter()

    @routes.post("/v1/images/generations")
    async def generate(body: ImageRequest) -> JSONResponse:
        """Draw `n` pictures; picture i has the seed of the request + i."""
        loaded = find(catalog, body.model, "image")
        requests, seed = loaded.requests(body)
        output = await asyncio.wrap_future(loaded.engine.submit(requests))
        files = [file async for file in encoded(loaded, output, body)]
        data = [
            {"b64_json": b64encode(file).decode("ascii"), "seed": own}
            for file, own in zip(files, requests.seed.tolist(), strict=True)
        ]
        content: dict[str, Any] = {"created": int(time.time()), "data": data}
        return JSONResponse(content, headers=headers(loaded, seed))

    return routes


async def encoded(loaded: Loaded, output: Tensor, body: ImageRequest) -> AsyncIterator[bytes]:
    """The files, made beside the loop and a few at a time, so that a client who left costs no more than those."""
    width = loaded.engine.width
    for first in range(0, len(output), width):
        for file in await asyncio.to_thread(loaded.encode, output[first : first + width], body):
            yield file
