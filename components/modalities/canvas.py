"""A person's own picture made fit for a model that turns pictures into others, and its result for the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from components.errors import UserError
from components.families.family import Shape
from components.modalities.corruption import Corruption
from components.modalities.decoding import NotAPicture, decoded, upright
from components.modalities.drawing import LARGEST_SIDE, to_uint8
from components.modalities.tiling import Tiling

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
ROWS = 1024
"""The most tiles that a request may take, all its pictures together."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are taken from strangers; Pillow reads more, one of them (EPS) by running a program."""
TINT = 24
"""Levels by which the channels of a grey picture may differ, as JPEG leaves them."""
REACH = 2
"""Pixels, of the larger grid, from which bicubic resizing takes to each side."""
CLEAR = 128
"""Alpha below which a pixel of a mask is transparent."""


@dataclass(frozen=True)
class Canvas:
    """One picture that is edited: its `sources` [T, Cs, h, w], and how the results of these rows become the answer.

    `size` is (height, width) of the answer, which is uint8 [H, W, C].
    """

    sources: Tensor
    size: tuple[int, int]
    finish: Callable[[Tensor], Pixels]


@dataclass(frozen=True)
class Easel:
    """Makes canvases for weights of `shape`; `windowed` says that they were trained on windows of larger pictures."""

    shape: Shape
    corruption: Corruption
    windowed: bool

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) of a row."""
        return self.shape.data[1], self.shape.data[2]

    def canvas(self, file: bytes, mask: bytes | None) -> Canvas:
        """The canvas of a picture and, for a model that fills holes, its mask. Raises `UserError`."""
        picture = read(file, 3 if self.corruption.kind == "grey" else self.shape.data[0])
        if self.corruption.kind == "mask":
            return self._filled(picture, hole(file if mask is None else mask))
        small(picture, self._factor)
        source = self.corruption.given(floats(picture))
        return self._tiled(source) if self._in_tiles else self._whole(picture)

    @property
    def _factor(self) -> int:
        """How many times the sides of a picture those of its answer are."""
        return round(self.corruption.amount) if self.corruption.kind == "shrink" else 1

    @property
    def _in_tiles(self) -> bool:
        """Whether a picture of any size is taken at its own."""
        return self.windowed or self.corruption.kind in ("noise", "grey", "shrink")

    def measured(self, file: bytes) -> tuple[int, int]:
        """The least rows of a picture and the pixels of its answer, by its header alone. Raises `UserError`.

        Least, as only the whole file says whether it lies on its side.
        """
        try:
            height, width = (side * self._factor for side in header(file))
        except NotAPicture as reason:
            raise refused(reason) from reason
        fills = self.corruption.kind == "mask"
        tiled = self._in_tiles or (fills and (height, width) == self.tile)
        pixels = height * width if tiled or fills else math.prod(self.tile)
        sizes = [(height, width), (width, height)]
        return (min(Tiling(size, self.tile).count for size in sizes) if tiled else 1), pixels

    def _tiled(self, source: Tensor) -> Canvas:
        """The source at its own size, in tiles that flow into each other."""
        tiling = Tiling((source.shape[1], source.shape[2]), self.tile)
        check_rows(len(tiling.places))
        return Canvas(
            tiling.cut(source), tiling.size, lambda rows: to_uint8(tiling.join(rows.float())[None])[0]
        )

    def _whole(self, picture: Tensor) -> Canvas:
        """The picture at the model's size, for models that know whole pictures only."""
        source = self.corruption.given(floats(fitted(picture, self.tile)))
        return Canvas(source[None], self.tile, lambda rows: to_uint8(rows)[0])

    def _filled(self, picture: Tensor, mask: Tensor) -> Canvas:
        """The picture with its hole; where it is known the answer has the picture's own levels."""
        small(picture)
        source = self.corruption.given(floats(picture), mask)
        known = mask[0].numpy() < 0.5
        own = picture.permute(1, 2, 0).numpy()
        size = (picture.shape[1], picture.shape[2])
        inner = self._tiled(source) if self.windowed or size == self.tile else self._shrunk(picture, mask)

        def finish(rows: Tensor) -> Pixels:
            found = inner.finish(rows)
            if found.shape[:2] != size:
                found = to_uint8(resized(floats(torch.from_numpy(found).permute(2, 0, 1)), size)[None])[0]
            return np.where(known[:, :, None], own, found)

        return Canvas(inner.sources, size, finish)

    def _shrunk(self, picture: Tensor, mask: Tensor) -> Canvas:
        """Picture and hole at the model's size; a pixel is in the hole if any part of it is.

        Around the hole a pixel is the mean of its own part: resizing would mix in what is to go.
        """
        part, whole = functional.adaptive_max_pool2d(mask[None], self.tile)[0], floats(picture)
        reach = REACH * max(1, *(-(-to // of) for to, of in zip(self.tile, whole.shape[1:], strict=True)))
        near = functional.max_pool2d(part, 2 * reach + 1, stride=1, padding=reach) > 0
        own = functional.adaptive_avg_pool2d(whole[None], self.tile)[0]
        source = self.corruption.given(torch.where(near, own, resized(whole, self.tile)), part)
        return Canvas(source[None], self.tile, lambda rows: to_uint8(rows)[0])


def check_rows(count: int) -> None:
    """Raise `UserError` if a request takes too many tiles."""
    if count > ROWS:
        raise UserError(
            f"This takes {count} tiles of the model's size, and a request may take {ROWS}; send smaller pictures, or "
            "fewer at once."
        )


def header(file: bytes) -> tuple[int, int]:
    """(height, width) as a picture's header says it, before it is turned; raises `NotAPicture` with the reason."""
    try:
        with Pillow.open(io.BytesIO(file), formats=FORMATS) as image:
            height, width = image.height, image.width
    except UnidentifiedImageError as error:
        raise NotAPicture(f"no picture in a format that can be read: {', '.join(FORMATS)}") from error
    except Exception as error:  # bytes from anywhere: Pillow's decoders raise whatever they stumble over
        raise NotAPicture("a picture whose header is broken or too large") from error
    if height * width > LARGEST_SIDE**2:
        raise NotAPicture(f"a picture of more than {LARGEST_SIDE**2:,} pixels")
    return height, width


def refused(reason: NotAPicture) -> UserError:
    """The error for a picture that cannot be read."""
    return UserError(
        f"The picture cannot be taken ({reason}); send a PNG or JPEG of at most {LARGEST_SIDE} pixels a side."
    )


def read(file: bytes, channels: int) -> Tensor:
    """A picture as uint8 [channels, H, W]; `UserError` for what is none, is too large, or has colours in vain."""
    try:
        header(file)
        picture = decoded(file, 3, most=LARGEST_SIDE**2)
        if channels == 3:
            return picture
        levels = picture.short()
        if int((levels.amax(0) - levels.amin(0)).max()) > TINT:
            raise UserError(
                "The picture has colours and this model knows grey ones only; make it grey first."
            )
        return decoded(file, 1)
    except NotAPicture as reason:
        raise refused(reason) from reason


def hole(file: bytes) -> Tensor:
    """The mask [1, H, W] of a picture, 1 where it is transparent, as OpenAI has it. Raises `UserError`."""
    try:
        header(file)
        image = upright(file, LARGEST_SIDE**2)
    except NotAPicture as reason:
        raise UserError(f"The mask cannot be taken ({reason}); send a PNG.") from reason
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    clear = None if alpha is None else torch.from_numpy(np.array(alpha) < CLEAR)
    if clear is None or not bool(clear.any()):
        raise UserError(
            "This model fills holes and nothing is marked to be filled; send a “mask” (or a picture) that is "
            "transparent there."
        )
    return clear[None].float()


def small(picture: Tensor, factor: int = 1) -> None:
    """Raise `UserError` if the answer to a picture [C, H, W] would be too large."""
    height, width = (side * factor for side in picture.shape[1:])
    if max(height, width) > LARGEST_SIDE:
        raise UserError(
            f"The answer would be {width}x{height} and may have {LARGEST_SIDE} pixels a side; send a smaller picture."
        )


def fitted(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [C, H, W] at `size` (height, width), cut to its form, as pictures of a folder are."""
    pixels = picture.permute(1, 2, 0).numpy()
    image = Pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if image.size != (size[1], size[0]):
        image = ImageOps.fit(image, (size[1], size[0]), Pillow.Resampling.LANCZOS)
    found = np.array(image)
    return torch.from_numpy(found[None] if found.ndim == 2 else found.transpose(2, 0, 1).copy())


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Floats [C, H, W] at `size` (height, width), bicubic, smoothed where they shrink."""
    found = functional.interpolate(picture[None], size, mode="bicubic", align_corners=False, antialias=True)
    return found[0].clamp(-1.0, 1.0)


def floats(picture: Tensor) -> Tensor:
    """uint8 levels as floats in [−1, 1]."""
    return picture.float().mul_(2.0 / 255.0).sub_(1.0)
