"""Series to tokens and back: a window is scaled by its context and its values are put into bins.

Ansari et al. 2024, "Chronos: Learning the Language of Time Series" (arXiv:2403.07815), section 3.1. Beside theirs, the
mean of magnitudes, there are scales that move the window too; bins are fitted to the training windows, finer where
values are frequent; and a row may begin with its channel, its place and its size, so that whole windows are drawn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from components import files
from components.errors import UserError
from components.families.family import END, NOTHING
from components.modalities.tables import Values

Whole: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Scaling = Literal["mean", "standard", "last", "steps"]
"""What a window is measured by: the mean magnitude of its context; mean and standard deviation; the last value and
the standard deviation; the last value and the usual step."""

FILE = "series.json"
ANY = 1
"""Stands for a channel, a place or a size that is not told."""
HEAD = 4
"""Tokens before the values: END, the channel, the place, the size."""
LEVELS = 32
"""Places, and sizes, that are told apart."""
LEAST_CONTEXT = 8
"""The fewest values that a window is scaled by."""
GRID = 2**16
EVEN = 0.5
"""The share of the bins that lie evenly over the range; the others lie where training values do."""
ROOM = 1.25
"""How much farther than training values the bins reach."""
FLOOR = 0.02
"""Of the usual size of a channel's windows, what a window is measured by at least: an idle one has none of its own."""


@dataclass(frozen=True)
class Channel:
    """A channel: its least size, and the edges and middles of the levels of its windows' places and sizes."""

    name: str
    floor: float
    place_edges: Sequence[float]
    places: Sequence[float]
    size_edges: Sequence[float]
    sizes: Sequence[float]


@dataclass(frozen=True)
class Binning:
    """The tokenizer of one dataset; it lies in the prepared data and in every artifact trained on it.

    Tokens: `END`, `ANY`, the channels, `LEVELS` places, `LEVELS` sizes, the bins between `edges` [B + 1], whose values
    are `centers` [B]. A window is `context` + `horizon` values; `season` is the period in steps, 1 for none.
    """

    context: int
    horizon: int
    season: int
    scaling: Scaling
    edges: Sequence[float]
    centers: Sequence[float]
    channels: Sequence[Channel]

    @property
    def window(self) -> int:
        """The values of a row."""
        return self.context + self.horizon

    @property
    def length(self) -> int:
        """T, the tokens of a row."""
        return HEAD + self.window

    @property
    def names(self) -> list[str]:
        """The channels by name."""
        return [channel.name for channel in self.channels]

    @property
    def first_place(self) -> int:
        """The first token of a place."""
        return ANY + 1 + len(self.channels)

    @property
    def first_size(self) -> int:
        """The first token of a size."""
        return self.first_place + LEVELS

    @property
    def first_bin(self) -> int:
        """The first token of a value."""
        return self.first_size + LEVELS

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.first_bin + len(self.centers)

    @cached_property
    def _edges(self) -> Values:
        return np.asarray(self.edges, np.float64)

    @cached_property
    def _centers(self) -> Values:
        return np.asarray(self.centers, np.float64)

    @cached_property
    def widths(self) -> Values:
        """The widths of the bins [B], in sizes of the window."""
        return np.diff(self._edges)

    @cached_property
    def _floors(self) -> Values:
        """The least size of each channel, and 0 for an unknown one at the end."""
        return np.array([*(channel.floor for channel in self.channels), 0.0])

    def measured(self, values: Values, count: Whole, channel: Whole) -> tuple[Values, Values]:
        """Place and size [N] of the first `count` [N] of values [N, L]; −1 is an unknown `channel` [N]."""
        place, size = measure(values, count, self.scaling)
        size = np.maximum(size, self._floors[channel])
        still = np.where(place == 0, 1.0, np.abs(place)) * 1e-3
        return place, np.where(size > 1e-12 * np.abs(place), np.where(size > 0, size, still), still)

    def tokens(self, values: Values, place: Values, size: Values) -> Whole:
        """The bins of values [N, L] measured by `place` and `size` [N]; what lies beyond is in the outermost."""
        scaled = (values - place[:, None]) / size[:, None]
        return self.first_bin + np.searchsorted(self._edges[1:-1], scaled, side="right").astype(np.int64)

    def values(self, tokens: Whole, place: Values, size: Values) -> Values:
        """The values [N, L] of tokens; where one is no bin, as models rarely draw, the value before it goes on."""
        bins = tokens - self.first_bin
        known = (bins >= 0) & (bins < len(self.centers))
        last = np.maximum.accumulate(np.where(known, np.arange(tokens.shape[1]), -1), axis=1)
        found = self._centers[np.clip(np.take_along_axis(bins, np.maximum(last, 0), 1), 0, None)]
        return place[:, None] + size[:, None] * np.where(last < 0, 0.0, found)

    def heads(self, channel: Whole, place: Values, size: Values) -> Whole:
        """The first tokens [N, HEAD] of windows whose channel, place and size are told."""
        found = np.full((len(channel), HEAD), ANY, dtype=np.int64)
        found[:, 0] = END
        for number, own in enumerate(self.channels):
            rows = channel == number
            found[rows, 1] = ANY + 1 + number
            found[rows, 2] = self.first_place + np.searchsorted(own.place_edges, place[rows], side="right")
            found[rows, 3] = self.first_size + np.searchsorted(own.size_edges, size[rows], side="right")
        return found

    def told(self, head: Whole) -> tuple[Whole, Values, Values]:
        """Channel, place and size [N] that the tokens [N, 3] behind `END` tell, the middle where they tell none."""
        channel = np.clip(head[:, 0] - ANY - 1, 0, len(self.channels) - 1)
        level = [
            np.where((found >= 0) & (found < LEVELS), found, LEVELS // 2)
            for found in (head[:, 1] - self.first_place, head[:, 2] - self.first_size)
        ]
        places = np.array([own.places for own in self.channels])
        sizes = np.array([own.sizes for own in self.channels])
        return channel, places[channel, level[0]], sizes[channel, level[1]]

    def drawn(self, output: Whole, channel: int | None = None) -> tuple[Whole, Values]:
        """Channels [N] and values [N, window] of rows that were drawn from the beginning, or behind their channel."""
        rows = np.full((len(output), self.window + HEAD - 1), NOTHING, dtype=np.int64)
        skipped = 0 if channel is None else 1
        rows[:, :1] = NOTHING if channel is None else ANY + 1 + channel
        kept = output[:, : rows.shape[1] - skipped]
        rows[:, skipped : skipped + kept.shape[1]] = kept
        which, place, size = self.told(rows[:, : HEAD - 1])
        return which, self.values(rows[:, HEAD - 1 :], place, size)

    def save(self, folder: Path) -> None:
        """Write the file into `folder`, at once."""
        files.write(folder / FILE, json.dumps(dataclasses.asdict(self)))


def load_binning(folder: Path) -> Binning:
    """The tokenizer whose file lies in `folder`; raises `UserError` if it cannot be read."""
    try:
        content: Mapping[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        channels = tuple(Channel(**channel) for channel in content["channels"])
        return Binning(**{**content, "channels": channels})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / FILE} is damaged; prepare the data or fetch the model again.") from error


def measure(values: Values, count: Whole, scaling: Scaling) -> tuple[Values, Values]:
    """Place and size [N] of the first `count` [N] of values [N, L]; a size may be 0."""
    inside = np.arange(values.shape[1]) < count[:, None]
    if scaling == "mean":
        return np.zeros(len(values)), np.where(inside, np.abs(values), 0.0).sum(1) / count
    last = np.take_along_axis(values, count[:, None] - 1, 1)[:, 0]
    if scaling == "steps":
        steps = np.where(inside[:, 1:], np.diff(values, axis=1), 0.0)
        return last, np.sqrt(np.square(steps).sum(1) / np.maximum(count - 1, 1))
    mean = np.where(inside, values, 0.0).sum(1) / count
    spread = np.sqrt(np.where(inside, np.square(values - mean[:, None]), 0.0).sum(1) / count)
    return (mean if scaling == "standard" else last), spread


def fit(
    windows: Values,
    channel: Whole,
    names: Sequence[str],
    context: int,
    horizon: int,
    season: int,
    scaling: Scaling,
    bins: int,
) -> Binning:
    """The tokenizer for training windows [N, context + horizon], of the channels `channel` [N]."""
    count = np.full(len(windows), context, dtype=np.int64)
    place, size = measure(windows, count, scaling)
    channels = [
        _channel(name, place[channel == number], size[channel == number]) for number, name in enumerate(names)
    ]
    bare = Binning(context, horizon, season, scaling, (), (), channels)
    place, size = bare.measured(windows, count, channel)
    scaled = ((windows - place[:, None]) / size[:, None]).ravel()
    edges = bin_edges(scaled, bins)
    centers = bin_centers(scaled, edges)
    return dataclasses.replace(bare, edges=edges.tolist(), centers=centers.tolist())


def _channel(name: str, place: Values, size: Values) -> Channel:
    """The levels of one channel's windows, equally frequent in training."""
    shares = np.linspace(0, 1, LEVELS + 1)
    middles = (shares[1:] + shares[:-1]) / 2
    return Channel(
        name,
        FLOOR * float(np.median(size)),
        np.quantile(place, shares[1:-1]).tolist(),
        np.quantile(place, middles).tolist(),
        np.quantile(size, shares[1:-1]).tolist(),
        np.quantile(size, middles).tolist(),
    )


def bin_edges(scaled: Values, bins: int) -> Values:
    """Edges [bins + 1] over a range somewhat wider than `scaled`: half of the bins even, half equally frequent."""
    low, high = np.quantile(scaled, [1e-4, 1 - 1e-4])
    reach = ROOM * max(abs(float(low)), abs(float(high)), 1e-6)
    grid = np.linspace(-reach, reach, GRID)
    below = np.searchsorted(np.sort(scaled), grid, side="right") / len(scaled)
    share = EVEN * np.linspace(0, 1, GRID) + (1 - EVEN) * below
    share[0], share[-1] = 0.0, 1.0
    return np.interp(np.linspace(0, 1, bins + 1), share, grid)


def bin_centers(scaled: Values, edges: Values) -> Values:
    """The mean of the values in each bin, its middle where there are few."""
    inside = scaled[(scaled > edges[0]) & (scaled < edges[-1])]
    place = np.clip(np.searchsorted(edges, inside, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    sums = np.bincount(place, inside, minlength=len(edges) - 1)
    middles = (edges[1:] + edges[:-1]) / 2
    return np.where(counts >= 8, sums / np.maximum(counts, 1), middles)
