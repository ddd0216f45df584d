"""`POST /v1/images/generations`, `/edits` and `/variations`, as OpenAI's clients call them."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from components.modalities.drawing import ImageRequest, PictureBody
from components.modalities.editing import ImageEditRequest, ImageVariationRequest
from components.modalities.modality import Order
from components.serving.catalog import Catalog, Loaded, Withheld
from components.serving.marking import let_out
from components.serving.routes.answers import Pictures, whole_or_streamed
from components.serving.routes.description import form_or_json, json_body
from components.serving.routes.errors import WithheldError
from components.serving.routes.events import aside, done
from components.serving.routes.forms import json_of, read
from components.serving.routes.models import field_of, headers
from components.serving.routes.sides import answered
from components.serving.routes.sketches import streamed

FEW, SMALL = 16, 2**14
"""Pictures, and values of all of them together, that are worked on beside the other requests."""
DRAW, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"


def router(catalog: Catalog) -> APIRouter:
    """The routes that draw with the models in `catalog`."""
    routes = APIRouter()

    said = whole_or_streamed(Pictures)

    async def answer(request: Request, body: PictureBody, route: str, event: str) -> Response:
        async def ask(loaded: Loaded) -> Response:
            order = await aside(_is_small(body), lambda: loaded.order(body))
            return await respond(loaded, body, order, event)

        return await answered(catalog, request, body, ask, "image", route)

    @routes.post(DRAW, response_model=None, responses=said, openapi_extra=json_body(ImageRequest))
    async def generate(request: Request) -> Response:
        """Draw `n` pictures; picture i has the seed of the request + i."""
        return await answer(request, await json_of(request, ImageRequest), DRAW, "image_generation")

    @routes.post(EDIT, response_model=None, responses=said, openapi_extra=form_or_json(ImageEditRequest))
    async def edit(request: Request) -> Response:
        """Turn each picture of a form or of JSON into another, `n` times."""
        return await answer(request, await read(request, ImageEditRequest), EDIT, "image_edit")

    @routes.post(VARY, response_model=None, responses=said, openapi_extra=form_or_json(ImageVariationRequest))
    async def vary(request: Request) -> Response:
        """Draw `n` pictures near each picture of a form or of JSON."""
        return await answer(request, await read(request, ImageVariationRequest), VARY, "image_variation")

    return routes


async def respond(loaded: Loaded, body: PictureBody, order: Order, event: str) -> Response:
    """The pictures of `order`, all at once or as a stream of `event`s. A client that leaves frees its rows."""
    if body.stream:
        return await streamed(loaded, body, order, event)
    soon = asyncio.get_running_loop().call_soon
    output = await done(loaded.submit(body, order.requests, order.seeds[0], when=soon))
    quick = loaded.filter is None and (loaded.marker is None or not loaded.marker.slow)
    small = _is_small(body) and output.numel() <= SMALL and quick
    if small:
        files = _files(loaded, order, output, range(len(order)))
    else:
        files = [file async for _, file in encoded(loaded, order, output)]
    if all(isinstance(file, Withheld) for file in files):
        raise WithheldError(str(files[0]))
    content = await aside(small, lambda: written(loaded, order, files))
    return Response(content, headers=headers(loaded, order.seeds[0]), media_type="application/json")


def written(loaded: Loaded, order: Order, files: Sequence[bytes | Withheld]) -> bytes:
    """The JSON of an answer; file by file, as one call for all would hold up the other threads."""
    data = (orjson.dumps(described(order, place, file)) for place, file in enumerate(files))
    return b'{"created":%d,"data":[%b]%b}' % (int(time.time()), b",".join(data), field_of(loaded))


def described(order: Order, place: int, file: bytes | Withheld) -> dict[str, Any]:
    """A picture as OpenAI words it; seed, class and why it is withheld are ours."""
    named = {} if order.labels[place] is None else {"label": order.labels[place]}
    if isinstance(file, Withheld):
        return {"b64_json": None, "withheld": file.reason, "seed": order.seeds[place], **named}
    return {"b64_json": b64encode(file).decode("ascii"), "seed": order.seeds[place], **named}


def _is_small(body: PictureBody) -> bool:
    """Whether a request takes no pictures and wants a few, at the model's own size."""
    return isinstance(body, ImageRequest) and (body.n or 1) <= FEW and body.size == "auto"


async def encoded(
    loaded: Loaded, order: Order, output: Tensor
) -> AsyncIterator[tuple[int, bytes | Withheld]]:
    """The files, a few at a time and beside the loop: a client who left costs no more."""
    width = loaded.engine.width
    for first in range(0, len(order), width):
        places = range(first, min(first + width, len(order)))
        files = await asyncio.to_thread(_files, loaded, order, output, places)
        for place, file in zip(places, files, strict=True):
            yield place, file


def _files(loaded: Loaded, order: Order, output: Tensor, places: range) -> list[bytes | Withheld]:
    return [let_out(loaded, order.file(place, output), order.seeds[place]) for place in places]
