"""The body of OpenAI's `POST /v1/images/generations`, how it becomes rows for a family, and rows become PNG."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from components.errors import UserError, unknown
from components.families.family import NOTHING, Family, Requests, Shape
from components.families.sampling import uniform
from components.modalities.caption import captioned, tidy
from components.modalities.modality import Maker
from components.modalities.tokenizer import TextTokenizer

LARGEST_SIDE = 2048
"""The most pixels a side that a request may ask for."""
PIXELS = 2**25
"""The most pixels of all answers of a request together."""
PROMPT = 4096
"""The most characters of a prompt."""
OPTIONS: Mapping[str, torch.dtype] = {
    "steps": torch.int64,
    "guidance": torch.float32,
    "truncation": torch.float32,
    "temperature": torch.float32,
}
"""What a request may set of the sampling, where the family has a field of that name."""
LABELS = 2**32
"""The step whose randomness draws a class, far behind those that draw noise."""

SMALL = 2**12
"""Values of a picture that is written as a PNG without Pillow."""
FASTEST = 1
"""zlib's level for such a one: half the time of the usual level, and 5% more bytes."""
COLOURS: Mapping[int, int] = {1: 0, 3: 2}
"""PNG's kind of colour by the number of channels: grey, RGB."""


def _named(value: Any) -> Any:
    """A class by name, also where its name is a number."""
    return str(value) if type(value) is int else value


Label: TypeAlias = Annotated[str, BeforeValidator(_named, json_schema_input_type=str | int)]


class PictureBody(BaseModel):
    """What all routes of pictures take; `seed` and `label` are ours.

    The fields from `user` on are OpenAI's too; they are taken where their value asks for nothing else than
    what is done anyway.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = Field(default=1, ge=1, le=128)
    size: str = Field(default="auto", pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$")
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    label: Label | None = None
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=3)
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    quality: Literal["auto", "standard"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    output_format: Literal["png"] = "png"

    @model_validator(mode="after")
    def _streamed(self) -> PictureBody:
        if self.partial_images and not self.stream:
            raise ValueError("“partial_images” needs “stream”: true; send both or neither")
        return self


class ImageRequest(PictureBody):
    """The body of `POST /v1/images/generations`, with the options of sampling added."""

    prompt: str = Field(default="", max_length=PROMPT)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    truncation: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)


def drawn(body: ImageRequest, model: Maker, captions: TextTokenizer | None, seeds: Sequence[int]) -> Requests:
    """One row a seed, with the class, the caption and the options that the model takes. Raises `UserError`."""
    if model.shape.source is not None:
        raise UserError("This model turns a picture into another; send one to /v1/images/edits.")
    check_pixels([math.prod(wanted_size(body.size, model.shape))], body.n)
    return Requests(
        seed=torch.from_numpy(np.array(seeds, dtype=np.int64)),  # as in `to_uint8`, no wait for the lock
        label=labels_of(body.label, body.prompt, model, seeds),
        prompt=_caption(body, model.shape, captions, len(seeds)),
        options=options_for(body, model, len(seeds)),
    )


def labels_of(label: str | None, prompt: str, model: Maker, seeds: Sequence[int]) -> Tensor | None:
    """The class of each row int64 [N], drawn by its seed where none is named; None where there are none.

    A `prompt` that is the name of a class asks for it. Raises `UserError`.
    """
    prompt = prompt.strip()
    if not model.shape.classes:
        if label is not None:
            raise UserError("This model knows no classes; leave “label” out.")
        if prompt and model.shape.prompt is None:
            raise UserError("This model draws without a prompt; leave “prompt” out or send an empty one.")
        return None
    if label is not None and prompt not in ("", label):
        raise UserError(f"“label” asks for “{label}” and “prompt” for something else; send one of them.")
    name = prompt if label is None else label
    if not name:
        rows = torch.tensor(list(seeds), dtype=torch.int64)
        return (uniform(rows, torch.full_like(rows, LABELS)) * model.shape.classes).long()
    if name not in model.classes:
        raise unknown("class", name, model.classes)
    return torch.full((len(seeds),), list(model.classes).index(name), dtype=torch.int64)


def _caption(body: ImageRequest, shape: Shape, captions: TextTokenizer | None, rows: int) -> Tensor | None:
    """The tokens of the caption, int64 [N, P], all `NOTHING` for an empty one; None where captions are not read."""
    if shape.prompt is None:
        return None
    if not body.prompt.strip():
        return torch.full((rows, shape.prompt[0]), NOTHING, dtype=torch.int64)
    assert captions is not None, "a model of captions lies beside its tokenizer"
    tokens = len(captions.encode(tidy(body.prompt)))
    if tokens > shape.prompt[0]:
        raise UserError(
            f"“prompt” has {tokens} tokens and this model reads at most {shape.prompt[0]}; shorten it."
        )
    return captioned(captions, [body.prompt], shape.prompt[0]).expand(rows, -1).clone()


def options_of(family: Family, shape: Shape) -> dict[str, float]:
    """The options of sampling that a model has, with what it takes where a request does not say."""
    names = [name for name in OPTIONS if name != "guidance" or family.guided(shape)]
    return {name: getattr(family, name) for name in names if hasattr(family, name)}


def options_for(body: BaseModel, model: Maker, rows: int) -> dict[str, Tensor]:
    """Every option that the model has, for each row. Raises `UserError` for one that it has not."""
    usual = options_of(model.family, model.shape)
    named = {name: value for name in OPTIONS if (value := getattr(body, name, None)) is not None}
    for name in named:
        if name not in usual:
            has = f"its options are {', '.join(usual)}" if usual else "it has no such options"
            raise UserError(f"This model draws without “{name}”; leave it out ({has}).")
    values = usual | named
    return {name: torch.full((rows,), value, dtype=OPTIONS[name]) for name, value in values.items()}


def wanted_size(size: str, shape: Shape, whose: str = "model") -> tuple[int, int]:
    """(width, height) in pixels for a request's `size`; `UserError` unless it is a whole enlargement."""
    height, width = shape.data[1:]
    if size == "auto":
        return width, height
    asked_width, asked_height = (int(part) for part in size.split("x"))
    factor = asked_width // width
    whole = factor >= 1 and (asked_width, asked_height) == (width * factor, height * factor)
    if whole and max(asked_width, asked_height) <= LARGEST_SIDE:
        return asked_width, asked_height
    factors = [factor for factor in (1, 4, 8) if max(width, height) * factor <= LARGEST_SIDE]
    choices = ", ".join(f"{width * factor}x{height * factor}" for factor in factors)
    raise UserError(
        f"The size {size} is no whole multiple of this {whose}'s {width}x{height} up to {LARGEST_SIDE} pixels "
        f"a side; ask for {choices}, or leave “size” out."
    )


def check_pixels(each: Sequence[int], n: int) -> None:
    """Raise `UserError` if `n` answers of each of so many pixels are too much for one request."""
    total = sum(each) * n
    if total > PIXELS:
        raise UserError(
            f"The answers would have {total:,} pixels ({n} of each of {sum(each):,}) and may have {PIXELS:,} "
            "together; ask for fewer or for smaller ones."
        )


def to_uint8(data: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Floats in [−1, 1], [N, C, H, W], as uint8 [N, H, W, C], rounded to the nearest level.

    By numpy: each of torch's operations lets go of the interpreter's lock, and on a picture of a server waits longer
    to have it back from the engine's thread than it computes.
    """
    plain = data.device.type == "cpu" and data.dtype is torch.float32 and not data.requires_grad
    whole = data.numpy() if plain else data.detach().float().cpu().numpy()
    levels = np.minimum(np.maximum(whole, -1.0), 1.0)  # np.clip is Python, which takes longer than both
    levels += 1.0
    levels *= 127.5
    np.rint(levels, out=levels)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def png(picture: np.ndarray[Any, np.dtype[np.uint8]], size: tuple[int, int]) -> bytes:
    """One picture [H, W, C] as a PNG of `size` (width, height)."""
    height, width, channels = picture.shape
    if (width, height) == size and picture.size <= SMALL and channels in COLOURS:
        return _small_png(picture)
    image = Pillow.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
    if image.size != size:
        image = image.resize(size, Pillow.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _small_png(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A PNG (ISO/IEC 15948) without filters, which so few values need not, by a quarter of Pillow's work for it."""
    height, width, channels = picture.shape
    lines = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each begins with its filter, 0
    lines[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), FASTEST)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    whole = kind + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))
