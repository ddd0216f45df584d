"""The bodies of OpenAI's `POST /v1/images/edits` and `/v1/images/variations`, and how pictures become rows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from pydantic import BeforeValidator, Field
from torch import Tensor

from components.errors import UserError
from components.families.family import Family, Requests, Shape
from components.families.sampling import noise
from components.modalities.conditions import Conditions
from components.modalities.corruption import Corruption
from components.modalities.drawing import (
    LARGEST_SIDE,
    PictureBody,
    labels_of,
    png,
    to_uint8,
    wanted_size,
)
from components.modalities.modality import Maker, Order
from components.modalities.tiling import Tiling

ROWS = 1024
"""The most tiles that a request may take, all its pictures together."""
UPLOADS = 16
"""The most pictures of a request, as at OpenAI."""


def _uploads(value: Any) -> Any:
    return [_upload(item) for item in value] if isinstance(value, list) else [_upload(value)]


def _upload(value: Any) -> Any:
    """A file's bytes, of which JSON carries the Base64, bare or as a data URL."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except binascii.Error as error:
        raise ValueError("It is no file and no Base64 of one") from error


Upload: TypeAlias = Annotated[bytes, BeforeValidator(_upload)]
Uploads: TypeAlias = Annotated[list[bytes], BeforeValidator(_uploads), Field(min_length=1, max_length=UPLOADS)]


class UploadBody(PictureBody):
    """What both routes take: pictures as files of a form, or as Base64 in JSON; `n` answers to each."""

    image: Uploads


class ImageEditRequest(UploadBody):
    """The body of `POST /v1/images/edits`; transparent pixels of `mask` are to be filled."""

    mask: Upload | None = None
    prompt: str = ""


class ImageVariationRequest(UploadBody):
    """The body of `POST /v1/images/variations`; `strength` 0 is the picture itself, 1 forgets it."""

    strength: float = Field(default=0.4, ge=0, le=1, allow_inf_nan=False)


def encodes(family: Family) -> bool:
    """Whether a family has a way back from pictures, so that it can vary one."""
    return type(family).encode is not Family.encode


@dataclass(frozen=True)
class Canvas:
    """One picture that is edited: its `sources` [T, Cs, h, w], and how the results of its tiles become the answer.

    `size` is (height, width) of the answer.
    """

    sources: Tensor
    size: tuple[int, int]
    finish: Callable[[Tensor], np.ndarray[Any, np.dtype[np.uint8]]]


def edited(body: ImageEditRequest, model: Maker, conditions: Conditions, seeds: Sequence[int]) -> Order:
    """Each picture of `body` turned into another `n` times; all tiles of an answer have its seed. Raises `UserError`."""
    if model.shape.source is None:
        raise UserError("This model draws anew and edits no picture; ask it at /v1/images/generations.")
    if body.prompt.strip():
        raise UserError("This model edits without a prompt; leave “prompt” out or send an empty one.")
    labels_of(body.label, "", model, seeds)
    corruption = conditions.corruption or Corruption("pairs")
    if body.mask is not None and corruption.kind != "mask":
        raise UserError("This model changes the whole picture and takes no mask; leave “mask” out.")
    windowed = bool(conditions.view.crop)
    canvases = [_canvas(file, body.mask, model.shape, corruption, windowed) for file in body.image]
    order = _assembled(body, canvases, seeds)
    return order


def _assembled(body: ImageEditRequest, canvases: Sequence[Canvas], seeds: Sequence[int]) -> Order:
    """The rows of all canvases, `n` times each, in the order of the pictures."""
    repeated = [canvas for canvas in canvases for _ in range(body.n)]
    counts = [len(canvas.sources) for canvas in repeated]
    if sum(counts) > ROWS:
        raise UserError(
            f"These pictures take {sum(counts)} tiles of this model, and a request may take {ROWS}; send smaller "
            "pictures, or fewer at once."
        )
    sizes = [wanted_size(body.size, Shape(data=(0, *canvas.size)), "this picture") for canvas in repeated]
    stops = np.cumsum(counts).tolist()
    return Order(
        requests=Requests(
            seed=torch.tensor(list(seeds)).repeat_interleave(torch.tensor(counts)),
            source=torch.cat([canvas.sources for canvas in repeated]),
        ),
        seeds=seeds,
        parts=[slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)],
        encode=lambda place, rows: png(repeated[place].finish(rows), sizes[place]),
        labels=[None] * len(seeds),
    )


def _canvas(
    file: bytes, mask: bytes | None, shape: Shape, corruption: Corruption, windowed: bool
) -> Canvas:
    ...
