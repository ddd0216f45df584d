"""Images: uint8 pictures [C, H, W] in Parquet, floats in [−1, 1] for families, PNG for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from components.families.family import Batch, Kind, Requests, Shape
from components.modalities.conditions import ASSETS, Conditions, load_conditions
from components.modalities.drawing import ImageRequest, drawn, png, to_uint8, wanted_size
from components.modalities.editing import (
    ImageEditRequest,
    ImageVariationRequest,
    UploadBody,
    blank_edit,
    edited,
    varied,
)
from components.modalities.modality import DRAW, Direction, Maker, Modality, Order
from components.modalities.sources import beside


class Image(Modality):
    """Grey (C = 1) or RGB (C = 3) pictures of one size."""

    name: ClassVar[str] = "image"
    makes: ClassVar[str] = "pictures"
    kind: ClassVar[Kind] = Kind.IMAGE
    request: ClassVar[type[BaseModel]] = ImageRequest
    media_type: ClassVar[str] = "image/png"
    extension: ClassVar[str] = ".png"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "frechet_distance": "lower",
        "precision": "higher",
        "recall": "higher",
        "density": "higher",
        "coverage": "higher",
        "class_accuracy": "higher",
        "caption_reciprocal_rank": "higher",
        "psnr": "higher",
        "ssim": "higher",
        "hole_psnr": "higher",
        "negative_elbo_nats": "lower",
        "importance_weighted_nats": "lower",
        "binarized_negative_elbo_nats": "lower",
        "binarized_importance_weighted_nats": "lower",
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

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """The rows of `order`."""
        return self.order(body, model, seeds).requests

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """New pictures, pictures turned into others, or variations, as `body` says. Raises `UserError`."""
        if isinstance(body, ImageEditRequest):
            return edited(body, model, self.conditions, seeds)
        if isinstance(body, ImageVariationRequest):
            return varied(body, model, seeds)
        requests = drawn(body, model, self.conditions.captions, seeds)
        label = requests.label
        return Order(
            requests=requests,
            seeds=seeds,
            parts=[slice(place, place + 1) for place in range(len(seeds))],
            encode=lambda _, rows: self.encode(rows, body)[0],
            labels=[None] * len(seeds) if label is None else [model.classes[own] for own in label.tolist()],
        )

    def asked(self, shape: Shape) -> type[BaseModel]:
        """A request for new pictures, or one that sends those which are to be turned into others."""
        return ImageRequest if shape.source is None else ImageEditRequest

    def answers(self, body: Any) -> int:
        """`n`, for each picture that is sent."""
        return int(body.n) * (len(body.image) if isinstance(body, UploadBody) else 1)

    def warm(self, shape: Shape) -> BaseModel:
        """A picture; where one is turned into another, an empty one of the size of a row."""
        return ImageRequest() if shape.source is None else blank_edit(shape, self.conditions)

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight pictures, if the model draws by itself."""
        drawn = {"n": 8} if shape.source is None else {}
        return self.warm(shape).model_copy(update={"seed": seed, **drawn})

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """One PNG a row, enlarged by whole pixels if the request's `size` says so."""
        size = wanted_size(body.size, Shape(data=tuple(output.shape[1:])))
        return [png(picture, size) for picture in to_uint8(output)]

    def picture(self, output: Tensor) -> bytes:
        """A grid, nearly square, small pictures enlarged until a person can see them."""
        return grid(output)

    def progress(self, output: Tensor, requests: Requests) -> bytes:
        """The grid, each picture behind its source where it has one."""
        if requests.source is None:
            return self.picture(output)
        return grid(beside(requests.source, output), columns=2 * max(1, round(len(output) ** 0.5 / 2)))


def _pictures(array: pa.FixedSizeBinaryArray, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pictures of one Arrow array as uint8 [N, C, H, W], a view of its memory."""
    size = math.prod(shape)
    flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * size, array.offset * size)
    return flat.reshape(len(array), *shape)


def floats(pictures: Tensor) -> Tensor:
    """uint8 levels as floats in [−1, 1]."""
    return pictures.to(torch.float32).mul_(2.0 / 255.0).sub_(1.0)


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
    return png(sheet, (sheet.shape[1], sheet.shape[0]))


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
