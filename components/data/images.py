"""Pictures of any kind as uint8 [C, H, W] of one size: modes, transparency, bit depths, rotation."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.data.example import NotAPicture, Pixels

Fit = Literal["crop", "pad", "stretch"]
PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""The modes that Pillow turns into RGB or grey rightly by itself."""


def read_picture(data: Path | bytes, size: tuple[int, int], channels: int, fit: Fit) -> Pixels:
    """Decode the file or bytes `data` to uint8 [channels, *size]; raises `NotAPicture` with the reason.

    Turned as its EXIF data says; transparency lies over white; of an animation the first frame is taken.
    """
    pixels = np.asarray(_fitted(_opaque(_upright(data), channels), size, fit))
    stacked = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(stacked)


def _upright(data: Path | bytes) -> Image.Image:
    """The decoded picture, turned as its EXIF data says."""
    try:
        with Image.open(BytesIO(data) if isinstance(data, bytes) else data) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise NotAPicture("no picture in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise NotAPicture("a picture of too many pixels") from error
    except Exception as error:  # bytes from anywhere: Pillow's decoders raise whatever they stumble over
        raise NotAPicture(f"a broken picture: {_reason(error)}") from error


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    """The picture in mode L or RGB, over white where it is transparent."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I"):
        return _sixteen_bit(image).convert(mode)
    if image.mode not in PLAIN:
        raise NotAPicture(f"a picture in the colour mode {image.mode}, which is not read")
    if not image.has_transparency_data:
        return image.convert(mode)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert(mode)


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Grey levels 0 … 65535 as 0 … 255; Pillow's own conversion clips them."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise NotAPicture("a picture of more than 16 bits, whose white is not known")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    wanted = (size[1], size[0])
    if fit == "crop":
        return ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, wanted, Image.Resampling.LANCZOS, color="white")
    return image.resize(wanted, Image.Resampling.LANCZOS)


def _reason(error: Exception) -> str:
    """Pillow's reason without figures and paths, so that equal reasons can be counted."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or re.sub(r"\s*[(:'\d].*", "", str(error)).strip().lower() or type(error).__name__
