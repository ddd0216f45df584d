"""Line charts as PNG: small panels of lines and bands with the numbers of their axes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.modalities.tables import Values

BLUE, ORANGE, GREY, PALE = (31, 119, 180), (214, 96, 20), (90, 90, 90), (205, 205, 205)
FINE = 2
"""Pixels that are drawn for each that is shown, along each side."""
LEFT, TOP, RIGHT, BOTTOM = 52, 20, 8, 18
"""The margins of a panel in pixels."""
WIDEST = 4000
"""Points of a line that are drawn at most; of more, every so many."""
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """Values [L], the first at the place `first`; NaN is a gap."""

    values: Values
    first: int = 0
    colour: Colour = BLUE
    width: int = 1


@dataclass(frozen=True)
class Band:
    """The area between `low` and `high` [L], the first at the place `first`."""

    low: Values
    high: Values
    first: int = 0
    colour: Colour = ORANGE
    shade: float = 0.25


@dataclass(frozen=True)
class Panel:
    """A small chart; `marks` are places with an upright line."""

    title: str
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[float] = field(default_factory=tuple)


def chart(panels: Sequence[Panel], columns: int, size: tuple[int, int] = (320, 170)) -> bytes:
    """All panels in rows of `columns`, each of `size` (width, height) pixels, as PNG."""
    columns = max(1, min(columns, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = size
    sheet = Image.new("RGB", (columns * width, max(1, rows) * height), "white")
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(_drawn(panel, size), (column * width, row * height))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _drawn(panel: Panel, size: tuple[int, int]) -> Image.Image:
    """One panel."""
    width, height = size[0] * FINE, size[1] * FINE
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image, "RGBA")
    axes = _Axes.around(panel, width, height)
    axes.frame(draw, panel.title)
    for mark in panel.marks:
        draw.line([axes.point(mark, axes.low), axes.point(mark, axes.high)], fill=PALE, width=FINE)
    for band in panel.bands:
        places = [float(band.first + step) for step in range(len(band.low))]
        outline = [axes.point(x, y) for x, y in zip(places, band.high, strict=True)]
        outline += [axes.point(x, y) for x, y in zip(places[::-1], band.low[::-1], strict=True)]
        if len(band.low) > 1:
            draw.polygon(outline, fill=(*band.colour, round(255 * band.shade)))
    for line in panel.lines:
        for part in _parts(line):
            points = [axes.point(x, y) for x, y in part]
            draw.line(points if len(points) > 1 else points * 2, fill=line.colour, width=line.width * FINE)
    return image.resize(size, Image.Resampling.LANCZOS)


def _parts(line: Line) -> list[list[tuple[float, float]]]:
    """The pieces of a line between its gaps."""
    stride = max(1, len(line.values) // WIDEST)
    parts: list[list[tuple[float, float]]] = [[]]
    for place in range(0, len(line.values), stride):
        value = float(line.values[place])
        if math.isfinite(value):
            parts[-1].append((line.first + place, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


@dataclass(frozen=True)
class _Axes:
    """What lies between the edges of a panel of `width` × `height` fine pixels."""

    left: float
    right: float
    low: float
    high: float
    width: int
    height: int

    @classmethod
    def around(cls, panel: Panel, width: int, height: int) -> _Axes:
        """Room for all that is in `panel`, and a little above and below."""
        spans = [(line.first, len(line.values)) for line in panel.lines]
        spans += [(band.first, len(band.low)) for band in panel.bands]
        every = [line.values for line in panel.lines] + [
            edge for band in panel.bands for edge in (band.low, band.high)
        ]
        known = np.concatenate([part[np.isfinite(part)] for part in every] or [np.zeros(0)])
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        left = min((first for first, _ in spans), default=0)
        right = max((first + count - 1 for first, count in spans), default=1)
        return cls(left, max(right, left + 1), low - room, high + room, width, height)

    def point(self, place: float, value: float) -> tuple[float, float]:
        """Where a value lies in the picture."""
        across = (place - self.left) / (self.right - self.left)
        up = (value - self.low) / (self.high - self.low)
        inner = self.width - FINE * (LEFT + RIGHT), self.height - FINE * (TOP + BOTTOM)
        return FINE * LEFT + across * inner[0], FINE * TOP + (1 - up) * inner[1]

    def frame(self, draw: ImageDraw.ImageDraw, title: str) -> None:
        """The frame, the title above it, and the numbers at its corners."""
        corners = [self.point(self.left, self.high), self.point(self.right, self.low)]
        draw.rectangle(corners, outline=PALE, width=FINE)
        font = ImageFont.load_default(10 * FINE)
        draw.text((FINE * LEFT, FINE * 4), title, fill=GREY, font=font)
        for value, (_, y) in ((self.high, corners[0]), (self.low, corners[1])):
            near = y + (6 if value == self.high else -6) * FINE
            draw.text((FINE * (LEFT - 4), near), f"{value:.4g}", fill=GREY, font=font, anchor="rm")
        for place, anchor in ((self.left, "la"), (self.right, "ra")):
            draw.text(
                (self.point(place, self.low)[0], corners[1][1] + 3 * FINE), f"{place:g}", GREY, font, anchor
            )
