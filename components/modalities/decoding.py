"""Picture files of any kind as levels of 0 … 255: modes, transparency, bit depths, rotation, animation."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""The modes that Pillow turns into RGB or grey rightly by itself."""
PIXELS = 2**24
"""The most pixels that `decoded` reads unless it is told otherwise: 4096×4096."""


class NotAPicture(Exception):  # noqa: N818 - it names a finding about one file, which is then left out
    """This file holds no picture that can be read; the message is the reason."""


def decoded(data: bytes, channels: int, most: int = PIXELS) -> Tensor:
    """The picture in the file `data` as uint8 [channels, H, W] at its own size; raises `NotAPicture` with the reason.

    Read as pictures of a dataset are: see `opaque`. More than `most` pixels are refused before they are decoded.
    """
    pixels = np.array(opaque(upright(data, most), channels))
    return torch.from_numpy(
        pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    )


def upright(data: Path | bytes, most: int | None = None) -> Image.Image:
    """The decoded picture of a file of at most `most` pixels, turned as its EXIF data says; of an animation the first.

    Raises `NotAPicture` with the reason.
    """
    try:
        with Image.open(BytesIO(data) if isinstance(data, bytes) else data) as image:
            if most is not None and image.width * image.height > most:
                raise NotAPicture(f"a picture of more than {most:,} pixels")
            return ImageOps.exif_transpose(image)
    except NotAPicture:
        raise
    except UnidentifiedImageError as error:
        raise NotAPicture("no picture in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise NotAPicture("a picture of too many pixels") from error
    except Exception as error:  # bytes from anywhere: Pillow's decoders raise whatever they stumble over
        raise NotAPicture(f"a broken picture: {_reason(error)}") from error


def opaque(image: Image.Image, channels: int) -> Image.Image:
    """The picture in mode L (one channel) or RGB (three), over white where it is transparent.

    Raises `NotAPicture` for a colour mode that is not read.
    """
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
    """Grey levels 0 … 65535 as 0 … 255, white where a level stands for nothing; Pillow's own conversion clips them."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise NotAPicture("a picture of more than 16 bits, whose white is not known")
    clear = image.info.get("transparency")
    shown = levels if not isinstance(clear, int) else np.where(levels == clear, 65535, levels)
    return Image.fromarray(((shown + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    """Pillow's reason without figures and paths, so that equal reasons can be counted."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or re.sub(r"\s*[(:'\d].*", "", str(error)).strip().lower() or type(error).__name__
