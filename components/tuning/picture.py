"""The picture of a search: the metric over the trials and against each field that was searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from components.tuning.records import Sweep, Trial

SIDE, EDGE, LETTERS = 300, 64, 14
"""Pixels: the side of a panel's frame, the space around it, the size of letters."""
COLUMNS = 3
DONE, EARLY, BEST = "#1f5fa8", "#b9b9b9", "#d1392b"


@dataclass(frozen=True)
class Axis:
    """Where numbers lie between 0 and 1; by their logarithm if `log`."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """`value` between 0 at the low end and 1 at the high one."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 0.5 if high == low else (here - low) / (high - low)


def draw(sweep: Sweep) -> Image.Image:
    """A panel of the metric over the trials with the best so far, and one for each field, values of val upward.

    Grey trials were stopped early, at a smaller step; of them the last value is shown. At least one has a value.
    """
    trials = [trial for trial in sweep.trials if trial.value is not None]
    values = [trial.value or 0.0 for trial in trials]
    upward = Axis(min(values), max(values))
    names = ["trial", *sweep.space]
    rows = math.ceil(len(names) / COLUMNS)
    cell = SIDE + 2 * EDGE
    sheet = Image.new("RGB", (cell * min(COLUMNS, len(names)), cell * rows), "white")
    for place, name in enumerate(names):
        corner = (place % COLUMNS * cell + EDGE, place // COLUMNS * cell + EDGE)
        _panel(ImageDraw.Draw(sheet), corner, sweep, name, trials, upward)
    return sheet


def _panel(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    sweep: Sweep,
    name: str,
    trials: Sequence[Trial],
    upward: Axis,
) -> None:
    left, top = corner
    across = [float(trial.number if name == "trial" else trial.settings[name]) for trial in trials]
    along = Axis(min(across), max(across), sweep.space.get(name, "").endswith("logarithm"))
    pen.rectangle((left, top, left + SIDE, top + SIDE), outline="black")
    font = ImageFont.load_default(LETTERS)
    pen.text((left, top - LETTERS - 8), f"{sweep.metric} against {name}", "black", font)
    pen.text((left, top + SIDE + 6), f"{along.low:.3g}", "black", font)
    pen.text((left + SIDE, top + SIDE + 6), f"{along.high:.3g}", "black", font, anchor="ra")
    pen.text((left - 6, top), f"{upward.high:.4g}", "black", font, anchor="ra")
    pen.text((left - 6, top + SIDE), f"{upward.low:.4g}", "black", font, anchor="rd")
    at = [
        (
            left + 8 + (SIDE - 16) * along.place(x),
            top + SIDE - 8 - (SIDE - 16) * upward.place(trial.value or 0.0),
        )
        for x, trial in zip(across, trials, strict=True)
    ]
    if name == "trial":
        _best_so_far(pen, sweep, trials, at)
    for (x, y), trial in zip(at, trials, strict=True):
        _dot(pen, x, y, BEST if trial == sweep.best else DONE if trial.state == "done" else EARLY)


def _best_so_far(
    pen: ImageDraw.ImageDraw, sweep: Sweep, trials: Sequence[Trial], at: Sequence[tuple[float, float]]
) -> None:
    """A line that steps to each whole trial that is better than those before it."""
    whole = [place for place, trial in zip(at, trials, strict=True) if trial.state == "done"]
    better = max if sweep.better == "lower" else min  # a lower value lies further down
    corners: list[tuple[float, float]] = []
    for x, y in whole:
        level = y if not corners else better(corners[-1][1], y)
        corners += [(x, corners[-1][1] if corners else y), (x, level)]
    if len(corners) > 1:
        pen.line(corners, fill=BEST)


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, colour: str) -> None:
    pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="white")
