"""Pictures for people: rows of a grid with a name left of each, or above each column."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import Tensor

from components.modalities.image import grid

LETTERS, SPACE, LONGEST = 14, 8, 48
"""Pixels: the size of letters and the space around them; the most characters of a name."""


def sheet(data: Tensor, names: Sequence[str], heads: Sequence[str] = (), target: int = 56) -> bytes:
    """A PNG of pictures [R, K, C, H, W]: row r is named `names[r]` at its left, column k `heads[k]` above it.

    Pictures are enlarged by whole pixels: to about `target` a side, and if they are narrower than what stands above
    them.
    """
    plain: Pillow.Image = Pillow.open(io.BytesIO(grid(data.flatten(0, 1), data.shape[1], target)))
    font = ImageFont.load_default(LETTERS)
    wanted = max((font.getlength(head) for head in heads), default=0) + (SPACE if heads else 0)
    if (times := math.ceil(wanted * data.shape[1] / plain.width)) > 1:
        plain = plain.resize((plain.width * times, plain.height * times), Pillow.Resampling.NEAREST)
    short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    left = round(max((font.getlength(name) for name in short), default=0)) + 2 * SPACE if names else 0
    top = LETTERS + 2 * SPACE if heads else 0
    page = Pillow.new("RGB", (left + plain.width, top + plain.height), "white")
    page.paste(plain, (left, top))
    draw = ImageDraw.Draw(page)
    height, width = plain.height / data.shape[0], plain.width / data.shape[1]
    for row, name in enumerate(short):
        draw.text((SPACE, top + height * (row + 0.5)), name, "black", font, anchor="lm")
    for column, name in enumerate(heads):
        draw.text((left + width * (column + 0.5), top / 2), name, "black", font, anchor="mm")
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    return stream.getvalue()
