"""Pictures for people: several put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from components import files

HEIGHT, GAP, CAPTION = 480, 16, 20
"""Pixels: the height of each picture, the space around it, the size of a caption's letters."""


def side_by_side(pictures: Sequence[tuple[Sequence[str], Path]], path: Path) -> None:
    """Write a PNG with each picture, brought to one height, under the lines of its caption; atomically."""
    font = ImageFont.load_default(CAPTION)
    images = [_scaled(file) for _, file in pictures]
    lines = max(len(caption) for caption, _ in pictures)
    top = GAP + lines * (CAPTION + 6)
    widths = [
        max(image.width, *(round(font.getlength(line)) for line in caption))
        for (caption, _), image in zip(pictures, images, strict=True)
    ]
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), top + HEIGHT + GAP), "white")
    draw, left = ImageDraw.Draw(sheet), GAP
    for (caption, _), image, width in zip(pictures, images, widths, strict=True):
        draw.multiline_text((left, GAP // 2), "\n".join(caption), "black", font, spacing=6)
        sheet.paste(image, (left, top))
        left += width + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.draft(path) as draft:
        sheet.save(draft, format="PNG")


def _scaled(path: Path) -> Image.Image:
    """The picture at the common height; enlarged by copying pixels, so that small ones stay sharp."""
    with Image.open(path) as image:
        size = (max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
        how = Image.Resampling.NEAREST if image.height < HEIGHT else Image.Resampling.LANCZOS
        return image.convert("RGB").resize(size, how)
