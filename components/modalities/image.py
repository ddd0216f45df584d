"""Images: uint8 pictures [C, H, W] in Parquet, floats in [−1, 1] for families, PNG for people."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from components.errors import UserError
from components.families.family import Batch, Kind, Requests, Shape
from components.modalities.conditions import ASSETS, Conditions, load_conditions
from components.modalities.modality import DRAW, Direction, Modality

LARGEST_SIDE = 2048
"""The most pixels a side that a request may ask for."""


class ImageRequest(BaseModel):
    """The body of OpenAI's `POST /v1/images/generations`, with `seed` added.

    The fields from `user` on are OpenAI's too; they are taken where their value asks for nothing else than
    what is done anyway.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: str = ""
    n: int = Field(default=1, ge=1, le=128)
    size: str = Field(default="auto", pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$")
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    quality: Literal["auto", "standard"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    output_format: Literal["png"] = "png"
    stream: Literal[False] = False


class Image(Modality):
    """Grey (C = 1) or RGB (C = 3) pictures of one size."""

    name: ClassVar[str] = "image"
    kind: ClassVar[Kind] = Kind.IMAGE
    request: ClassVar[type[BaseModel]] = ImageRequest
    media_type: ClassVar[str] = "image/png"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "frechet_distance": "lower",
        "precision": "higher",
        "recall": "higher",
        "density": "higher",
        "coverage": "higher",
        "negative_elbo_nats": "lower",
    }
    prefixes: ClassVar[tuple[str, ...]] = ("judge", "pca")

    optional: ClassVar[tuple[str, ...]] = ASSETS

    @cached_property
    def conditions(self) -> Conditions:
        """How sources are made and captions read, as the dataset or the artifact says; empty where it says nothing."""
        return load_conditions(self.folder)

    @property
    def random(self) -> bool:
        """Whether training rows are cut, turned or spoilt by chance."""
        return self.conditions.random

    def check(self, shape: Shape) -> None:
        """Raise `UserError` if the conditions do not fit weights of this `shape`."""
        self.conditions.check(shape, self.folder)

    def agrees(self, other: Modality) -> bool:
        """Whether sources are made, and captions read, in the same way."""
        return isinstance(other, Image) and self.conditions.agrees(other.conditions)

    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """`image` uint8 [N, C, H, W]; `label` int64 [N], `prompt` int32 [N, P], `source` uint8 where rows have them.

        Where sources are made by chance there is `id` int64 [N], by which a held-out row gets the same source always;
        of two domains `source_label` says the source's class by the target's numbers, −1 for one that has none.
        """
        about = json.loads(table.schema.metadata[b"genloom"])
        shapes = {"image": about["shape"], "source": about.get("source_shape")}
        columns = {
            name: torch.from_numpy(
                np.concatenate([_pictures(chunk, shape) for chunk in table.column(name).chunks])
            )
            for name, shape in shapes.items()
            if name in table.column_names
        }
        if "prompt" in table.column_names:
            rows = [_pictures(chunk, [4 * about["prompt"]]) for chunk in table.column("prompt").chunks]
            columns["prompt"] = torch.from_numpy(np.concatenate(rows).view("<i4"))
        for name in ("label", "source_label"):
            if name in table.column_names:
                columns[name] = torch.from_numpy(table.column(name).to_numpy().astype(np.int64))
        if self.random:
            columns["id"] = torch.tensor([int(key[:15], 16) for key in table.column("id").to_pylist()])
        return columns

    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """`data` float32 [N, C, H, W] in [−1, 1], with label, prompt int64 [N, P] and source where rows have them."""
        pictures = {name: columns[name] for name in ("image", "source") if name in columns}
        draw, corruption = columns.get(DRAW), self.conditions.corruption
        seen = {name: floats(self.conditions.view.of(found, draw)) for name, found in pictures.items()}
        data, source = seen["image"], seen.get("source")
        if source is None and corruption is not None:
            fixed = columns.get("id", torch.zeros(len(data), dtype=torch.int64))
            source = corruption.of(data, fixed if draw is None else draw)
        prompt = columns["prompt"].long() if "prompt" in columns else None
        length = torch.full((len(data),), data.shape[1], dtype=torch.int64)
        return Batch(data=data, length=length, label=columns.get("label"), prompt=prompt, source=source)

    def requests(self, body: Any, shape: Shape, classes: Sequence[str], seeds: Sequence[int]) -> Requests:
        """Free requests; a prompt is refused, because these models take none."""
        if body.prompt.strip():
            raise UserError("This model draws without a prompt; leave “prompt” out or send an empty one.")
        wanted_size(body.size, shape)
        return Requests(seed=torch.tensor(list(seeds), dtype=torch.int64))

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """One PNG a row, enlarged by whole pixels if the request's `size` says so."""
        size = wanted_size(body.size, Shape(data=tuple(output.shape[1:])))
        return [_png(picture, size) for picture in to_uint8(output)]

    def picture(self, output: Tensor) -> bytes:
        """A grid, nearly square, small pictures enlarged until a person can see them."""
        return grid(output)


def _pictures(array: pa.FixedSizeBinaryArray, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pictures of one Arrow array as uint8 [N, C, H, W], a view of its memory."""
    size = math.prod(shape)
    flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * size, array.offset * size)
    return flat.reshape(len(array), *shape)


def floats(pictures: Tensor) -> Tensor:
    """uint8 levels as floats in [−1, 1]."""
    return pictures.to(torch.float32).mul_(2.0 / 255.0).sub_(1.0)


def wanted_size(size: str, shape: Shape) -> tuple[int, int]:
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
        f"The size {size} is no whole multiple of this model's {width}x{height} up to {LARGEST_SIDE} pixels "
        f"a side; ask for {choices}, or leave “size” out."
    )


def to_uint8(data: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Floats in [−1, 1], [N, C, H, W], as uint8 [N, H, W, C], rounded to the nearest level."""
    levels = data.detach().float().cpu().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    array: np.ndarray[Any, np.dtype[np.uint8]] = levels.permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _png(picture: np.ndarray[Any, np.dtype[np.uint8]], size: tuple[int, int]) -> bytes:
    """One picture [H, W, C] as a PNG of `size` (width, height)."""
    image = Pillow.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
    if image.size != size:
        image = image.resize(size, Pillow.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def grid(data: Tensor, columns: int | None = None, target: int = 56) -> bytes:
    """A PNG of all pictures [N, C, H, W] in rows of `columns`, each side enlarged to about `target` pixels."""
    pictures = to_uint8(data)
    count, height, width, channels = pictures.shape
    across = columns or max(1, round(count**0.5))
    down = -(-count // across)
    factor = max(1, target // max(height, width))
    gap = 2
    cell_height, cell_width = height * factor + gap, width * factor + gap
    sheet = np.full((down * cell_height + gap, across * cell_width + gap, channels), 128, dtype=np.uint8)
    for place, picture in enumerate(pictures):
        top, left = gap + place // across * cell_height, gap + place % across * cell_width
        large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet[top : top + large.shape[0], left : left + large.shape[1]] = large
    return _png(sheet, (sheet.shape[1], sheet.shape[0]))


def schema(
    shape: Sequence[int],
    classes: Sequence[str],
    about: Mapping[str, Any],
    source: Sequence[int] | None = None,
    prompt: int | None = None,
    labelled_source: bool = False,
) -> pa.Schema:
    """The Arrow schema of prepared images: `id` (sha256 of the content), `image`, and `label` if classes.

    `image` is the picture's raw bytes, uint8 [C, H, W] as `shape` in the metadata says: Parquet has no uint8,
    and a fixed-shape tensor, stored as a list of 32-bit numbers, reads ten to twenty times as slowly. Pictures of the
    shape `source` stand beside them in the same way; `prompt` is the length of captions, int32 as bytes.
    """
    fields = [pa.field("id", pa.string()), pa.field("image", pa.binary(math.prod(shape)))]
    content = {"modality": "image", "shape": list(shape), "classes": list(classes), **about}
    if classes:
        fields.append(pa.field("label", pa.int32()))
    if prompt is not None:
        fields.append(pa.field("prompt", pa.binary(4 * prompt)))
        content["prompt"] = prompt
    if source is not None:
        fields.append(pa.field("source", pa.binary(math.prod(source))))
        content["source_shape"] = list(source)
    if labelled_source:
        fields.append(pa.field("source_label", pa.int32()))
    return pa.schema(fields, metadata={"genloom": json.dumps(content, sort_keys=True)})
