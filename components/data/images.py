"""Pictures of any kind as uint8 [C, H, W] of one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from components.data.example import Pixels
from components.modalities.decoding import NotAPicture, opaque, upright

Fit = Literal["crop", "pad", "stretch", "cut"]


def read_picture(data: Path | bytes, size: tuple[int, int], channels: int, fit: Fit) -> Pixels:
    """Decode the file or bytes `data` to uint8 [channels, *size]; raises `NotAPicture` with the reason.

    Turned as its EXIF data says; transparency lies over white; of an animation the first frame is taken.
    """
    return stacked(fitted(opaque(upright(data), channels), size, fit))


def read_stack(pictures: Sequence[Path | bytes], size: tuple[int, int], channels: int, fit: Fit) -> Pixels:
    """Several pictures, one above the other: uint8 [len(pictures)·channels, *size]; raises `NotAPicture`."""
    return np.concatenate([read_picture(data, size, channels, fit) for data in pictures])


def stacked(image: Image.Image) -> Pixels:
    """A picture in mode L or RGB as uint8 [C, H, W]."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """The picture at `size` [height, width]; raises `NotAPicture` if it is smaller and only to be cut."""
    wanted = (size[1], size[0])
    if image.size == wanted:
        return image
    if fit == "crop":
        return ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, wanted, Image.Resampling.LANCZOS, color="white")
    if fit == "stretch":
        return image.resize(wanted, Image.Resampling.LANCZOS)
    left, top = ((own - side) // 2 for own, side in zip(image.size, wanted, strict=True))
    if min(left, top) < 0:
        raise NotAPicture("a picture smaller than the size that is cut out of it")
    return image.crop((left, top, left + wanted[0], top + wanted[1]))
