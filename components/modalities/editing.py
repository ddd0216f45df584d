"""The bodies of OpenAI's `POST /v1/images/edits` and `/v1/images/variations`, and how pictures become rows."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from pydantic import BeforeValidator, Field, WithJsonSchema
from torch import Tensor

from components.errors import UserError
from components.families.family import Family, Requests, Shape
from components.families.sampling import device_of, noise
from components.modalities.canvas import Easel, check_rows, fitted, floats, read
from components.modalities.conditions import Conditions
from components.modalities.corruption import Corruption
from components.modalities.drawing import (
    PROMPT,
    PictureBody,
    check_pixels,
    labels_of,
    options_for,
    png,
    to_uint8,
    wanted_size,
)
from components.modalities.modality import Maker, Order

UPLOADS = 16
"""The most pictures of a request, as at OpenAI."""


def _uploads(value: Any) -> Any:
    return [_upload(item) for item in value] if isinstance(value, list) else [_upload(value)]


def _upload(value: Any) -> Any:
    """A file's bytes, of which JSON carries the Base64, bare or as a data URL."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except binascii.Error as error:
        raise ValueError("It is no file and no Base64 of one") from error


Base64: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
"""How JSON carries a file."""
Upload: TypeAlias = Annotated[bytes, BeforeValidator(_upload, json_schema_input_type=Base64)]
Uploads: TypeAlias = Annotated[
    list[bytes],
    BeforeValidator(
        _uploads,
        json_schema_input_type=Base64 | Annotated[list[Base64], Field(min_length=1, max_length=UPLOADS)],
    ),
    Field(min_length=1, max_length=UPLOADS),
]


class UploadBody(PictureBody):
    """What both routes take: pictures as files of a form, or as Base64 in JSON; `n` answers to each."""

    image: Uploads


class ImageEditRequest(UploadBody):
    """The body of `POST /v1/images/edits`; transparent pixels of `mask` are to be filled."""

    mask: Upload | None = None
    prompt: str = Field(default="", max_length=PROMPT)
    steps: int | None = Field(default=None, ge=1, le=1000)


class ImageVariationRequest(UploadBody):
    """The body of `POST /v1/images/variations`; `strength` 0 is the picture itself, 1 forgets it."""

    strength: float = Field(default=0.4, ge=0, le=1, allow_inf_nan=False)


def encodes(family: Family) -> bool:
    """Whether a family has a way back from pictures, so that it can vary one."""
    return type(family).encode is not Family.encode


def edited(body: ImageEditRequest, model: Maker, conditions: Conditions, seeds: Sequence[int]) -> Order:
    """Each picture of `body` turned into another `n` times; an answer's tiles have its seed. Raises `UserError`."""
    if model.shape.source is None:
        raise UserError("This model draws anew and edits no picture; ask it at /v1/images/generations.")
    if body.prompt.strip():
        raise UserError("This model edits without a prompt; leave “prompt” out or send an empty one.")
    labels_of(body.label, "", model, seeds)
    corruption = conditions.corruption or Corruption("pairs")
    if body.mask is not None and corruption.kind != "mask":
        raise UserError("This model changes the whole picture and takes no mask; leave “mask” out.")
    easel = Easel(model.shape, corruption, bool(conditions.view.crop))
    _check(body, easel)
    canvases = [canvas for file in body.image for canvas in [easel.canvas(file, body.mask)] * body.n]
    counts = [len(canvas.sources) for canvas in canvases]
    check_rows(sum(counts))
    sizes = [wanted_size(body.size, Shape(data=(0, *canvas.size)), "answer") for canvas in canvases]
    stops = np.cumsum(counts).tolist()
    requests = Requests(
        seed=torch.tensor(list(seeds)).repeat_interleave(torch.tensor(counts)),
        source=torch.cat([canvas.sources for canvas in canvases]),
        options=options_for(body, model, sum(counts)),
    )
    return Order(
        requests=requests,
        seeds=seeds,
        parts=[slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)],
        encode=lambda place, rows: png(canvases[place].finish(rows), sizes[place]),
        labels=[None] * len(seeds),
    )


def _check(body: ImageEditRequest, easel: Easel) -> None:
    """Raise `UserError` if the request is too much, as far as the headers of its pictures say, before they are cut."""
    measured = [easel.measured(file) for file in body.image]
    check_rows(sum(rows for rows, _ in measured) * body.n)
    asked = None if body.size == "auto" else math.prod(int(side) for side in body.size.split("x"))
    check_pixels([pixels if asked is None else asked for _, pixels in measured], body.n)


def varied(body: ImageVariationRequest, model: Maker, seeds: Sequence[int]) -> Order:
    """`n` pictures near each of `body`'s, by latents between its own and those of the seeds. Raises `UserError`.

    With the angle a = strength · 90°, z = cos a · z(picture) + sin a · noise, which keeps the latents' variance.
    """
    if not encodes(model.family) or model.shape.source is not None:
        raise UserError("This model has no way back from a picture, so it varies none; a VAE can.")
    if model.shape.classes and not body.label:
        raise UserError("This model draws classes; say with “label” which one the variations are to be of.")
    size = wanted_size(body.size, model.shape)
    check_rows(len(seeds))
    check_pixels([math.prod(size)] * len(body.image), body.n)
    rows = torch.tensor(list(seeds), dtype=torch.int64)
    with torch.inference_mode():
        own = [_latent(file, model) for file in body.image]
    centre = torch.cat(own).repeat_interleave(body.n, 0)
    drawn = noise(rows, torch.zeros_like(rows), tuple(centre.shape[1:]))
    angle = body.strength * math.pi / 2
    label = labels_of(body.label, "", model, seeds)
    requests = Requests(
        seed=rows, label=label, options={"latent": math.cos(angle) * centre + math.sin(angle) * drawn}
    )
    return Order(
        requests=requests,
        seeds=seeds,
        parts=[slice(place, place + 1) for place in range(len(seeds))],
        encode=lambda _, output: png(to_uint8(output)[0], size),
        labels=[body.label] * len(seeds),
    )


def _latent(file: bytes, model: Maker) -> Tensor:
    """The latent [1, L] of a picture, cut to the model's shape as those of a folder are."""
    picture = floats(fitted(read(file, model.shape.data[0]), (model.shape.data[1], model.shape.data[2])))
    latent = model.family.encode(model.networks, picture[None].to(device_of(model.networks)))
    if latent is None:
        raise UserError("This model has no way back from a picture, so it varies none; a VAE can.")
    return latent.cpu()


def blank_edit(shape: Shape, conditions: Conditions) -> ImageEditRequest:
    """A request about an empty picture that makes one row, with a hole where the model fills one."""
    corruption = conditions.corruption or Corruption("pairs")
    factor = round(corruption.amount) if corruption.kind == "shrink" else 1
    empty = np.zeros((shape.data[1] // factor, shape.data[2] // factor, 4), dtype=np.uint8)
    file = png(empty, (empty.shape[1], empty.shape[0]))
    return ImageEditRequest(image=[file], mask=file if corruption.kind == "mask" else None)
