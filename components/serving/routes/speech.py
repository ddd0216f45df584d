"""`POST /v1/audio/speech`, as OpenAI's clients call it: words that are classes of the model, in one file."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from components.modalities.speech import MEDIA, SpeechRequest
from components.serving.catalog import Catalog, Loaded, Withheld
from components.serving.making import ready
from components.serving.routes.answers import files
from components.serving.routes.description import json_body
from components.serving.routes.errors import WithheldError
from components.serving.routes.events import done
from components.serving.routes.forms import json_of
from components.serving.routes.models import SPEAK, headers
from components.serving.routes.sides import answered


def router(catalog: Catalog) -> APIRouter:
    """The route that speaks with the models in `catalog`."""
    routes = APIRouter()
    said = {200: {"description": "The file.", "content": files(*MEDIA.values())}}

    @routes.post(
        SPEAK,
        response_class=Response,
        response_model=None,
        responses=said,  # type: ignore[arg-type]
        openapi_extra=json_body(SpeechRequest),
    )
    async def speak(request: Request) -> Response:
        """Speak the words of `input`, one after the other."""
        body = await json_of(request, SpeechRequest)

        async def ask(loaded: Loaded) -> Response:
            return await _respond(loaded, body)

        return await answered(catalog, request, body, ask, "audio", SPEAK)

    return routes


async def _respond(loaded: Loaded, body: SpeechRequest) -> Response:
    making = (await asyncio.to_thread(ready, loaded, body))()
    output = await done(making.work)
    made = await asyncio.to_thread(making.take, 0, output)
    if made.content is None:
        raise WithheldError(str(Withheld(made.withheld or "")))
    return Response(made.content, media_type=MEDIA[body.response_format], headers=headers(loaded, made.seed))
