"""`POST /v1/generations`: one route for every modality; the body has the fields that the model's modality takes."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from components.errors import UserError
from components.labels.formats import MIDI, PNG, TEXT, WAV, format_of
from components.labels.statement import FIELD
from components.modalities import forecast
from components.modalities.completion import CompletionRequest
from components.modalities.designing import MoleculeRequest
from components.modalities.drawing import ImageRequest
from components.modalities.editing import ImageEditRequest
from components.modalities.forecast import SeriesRequest, as_csv, as_json, collected
from components.modalities.playing import MEDIA, MusicRequest
from components.modalities.series import Series
from components.modalities.speech import SoundRequest
from components.modalities.structures import TYPES
from components.serving.catalog import Catalog, Loaded, Withheld
from components.serving.making import Made, Making, check_whole, ready
from components.serving.marking import keep
from components.serving.routes import molecules
from components.serving.routes.answers import Files, Forecast, Molecules, Windows, any_of
from components.serving.routes.description import any_body
from components.serving.routes.errors import WithheldError
from components.serving.routes.events import done
from components.serving.routes.forms import loads, validated
from components.serving.routes.models import field_of, find, headers
from components.serving.routes.sides import answered

GENERATE = "/v1/generations"
ALONE = (PNG, TEXT, WAV, MIDI, *TYPES.values())
"""The media types of what is answered as one file: accepted alone, or named as the format of series and molecules."""


class Named(BaseModel):
    """The part of a body that says whose fields the others are."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None


def router(catalog: Catalog) -> APIRouter:
    """The route that generates with every model in `catalog`."""
    routes = APIRouter()

    @routes.post(
        GENERATE,
        response_model=None,
        responses=any_of(Files | Forecast | Windows | Molecules, *ALONE),
        openapi_extra=any_body(
            *(ImageRequest, ImageEditRequest, CompletionRequest, SoundRequest),
            *(MusicRequest, SeriesRequest, MoleculeRequest),
        ),
    )
    async def generate(request: Request) -> Response:
        """Generate `n` files of the model's media type; file i has the seed of the request + i.

        Who accepts that media type and nothing else gets one file as it is.
        A model of series gives all futures with their quantiles in one answer, as JSON or as CSV; one of molecules says
        what is known of each, or gives them as SMILES, CSV or SDF.
        """
        content, sent = await request.body(), request.headers.get("content-type", "")
        accepted = request.headers.get("accept", "").strip().lower()
        modality, body = await asyncio.to_thread(_read, catalog, content, sent, accepted)

        async def ask(loaded: Loaded) -> Response:
            if isinstance(body, MoleculeRequest):
                return await molecules.respond(loaded, body)
            return await _respond(loaded, body, accepted)

        return await answered(catalog, request, body, ask, modality)

    return routes


async def _respond(loaded: Loaded, body: BaseModel, accepted: str) -> Response:
    making = (await asyncio.to_thread(ready, loaded, body))()
    output = await done(making.work)
    made = []
    for first in range(0, making.count, loaded.engine.width):
        made += await asyncio.to_thread(_taken, making, output, first, loaded.engine.width)
    if all(one.content is None for one in made):
        raise WithheldError(str(Withheld(made[0].withheld or "")))
    if isinstance(body, SeriesRequest):
        series = await asyncio.to_thread(_series, loaded, body, made)
        return Response(series, media_type=forecast.MEDIA[body.format], headers=headers(loaded, made[0].seed))
    file = made[0]
    if accepted == (file.media_type or loaded.model.modality.media_type) and len(made) == 1:
        return Response(file.content, media_type=accepted, headers=headers(loaded, file.seed))
    answer = await asyncio.to_thread(_written, loaded, made)
    return Response(answer, media_type="application/json", headers=headers(loaded, made[0].seed))


def _read(catalog: Catalog, content: bytes, sent: str, accepted: str) -> tuple[str, BaseModel]:
    """The modality of the model that a body names, and the body as it reads it; `accepted` may choose its format."""
    value = loads(content, sent)
    loaded = find(catalog, (validated(value, Named).model or "").partition("@")[0] or None)
    body = validated(value, loaded.model.modality.asked(loaded.model.shape))
    check_whole(body)
    return loaded.model.about.modality, _accepting(body, accepted)


def _accepting(body: BaseModel, accepted: str) -> BaseModel:
    """`body` with the format of music that a client accepts alone; raises `UserError` if it asks for several files."""
    kind = next((kind for kind, media in MEDIA.items() if media == accepted), None)
    if not isinstance(body, MusicRequest) or kind is None:
        return body
    if body.n > 1:
        raise UserError(
            f"{accepted} is one file and “n” asks for {body.n}; accept application/json, or ask for one."
        )
    return body.model_copy(update={"response_format": kind})


def _taken(making: Making, output: Any, first: int, count: int) -> list[Made]:
    """A few files at a time, so that a client who left costs no more than those."""
    return [making.take(place, output) for place in range(first, min(first + count, making.count))]


def _written(loaded: Loaded, made: Sequence[Made]) -> bytes:
    kind = loaded.model.modality.media_type
    data = (json.dumps(described(one, kind)).encode() for one in made)
    model = json.dumps(loaded.served.product).encode()
    content = (int(time.time()), model, b",".join(data), field_of(loaded, _contents(made, kind)))
    return b'{"created":%d,"model":%b,"data":[%b]%b}' % content


def _contents(made: Sequence[Made], media_type: str) -> list[str] | None:
    """The hashes of files that have no place for a mark, such as texts; None of others."""
    kind = format_of(made[0].media_type or media_type)
    return (
        None
        if kind.put is not None
        else [kind.content(one.content) for one in made if one.content is not None]
    )


def _series(loaded: Loaded, body: SeriesRequest, made: Sequence[Made]) -> bytes:
    """The futures that are let out together, with their quantiles."""
    modality = loaded.model.modality
    assert isinstance(modality, Series)
    kept = [(one.content, one.seed) for one in made if one.content is not None]
    content = collected(body, modality.binning, [file for file, _ in kept], [seed for _, seed in kept])
    table = as_csv(content)
    contents = keep(loaded, [table.decode()], kept[0][1])  # the hash of the whole, which is given out
    if body.format == "csv":
        return table
    told = {} if loaded.marker is None else {FIELD: loaded.marker.told(contents)}
    return as_json({"created": int(time.time()), "model": loaded.served.product, **content, **told})


def described(made: Made, media_type: str) -> Mapping[str, Any]:
    """One file of an answer."""
    told = {"label": made.label, "finish_reason": made.finish, "withheld": made.withheld}
    return {
        "b64": None if made.content is None else b64encode(made.content).decode("ascii"),
        "media_type": made.media_type or media_type,
        "seed": made.seed,
        **{name: value for name, value in told.items() if value is not None},
    }
