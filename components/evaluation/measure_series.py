"""Series: forecasts of the held-out end beside naive ones, and windows drawn freely beside real ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.forecasts import (
    LEVELS,
    Forecasts,
    Normal,
    block_sums,
    interval,
    naive,
    scores,
    step_by_step,
)
from components.evaluation.intervals import Interval
from components.evaluation.measurement import Extent, Measured, Measurement, Say, Subject, enough, finite
from components.evaluation.report import Metric
from components.evaluation.windows import (
    Windows,
    autocorrelation_distance,
    discriminative_score,
    marginal_distance,
)
from components.families.family import NOTHING, Requests, select
from components.families.sampling import mix
from components.modalities.binning import HEAD, Whole
from components.modalities.chart import GREY, ORANGE, Band, Line, Panel, chart
from components.modalities.series import Series
from components.modalities.tables import Values

VERSION = 1
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models."""
FUTURES = 20
"""Futures of each window, as in Chronos (arXiv:2403.07815, section 5.3)."""
DRAWN = 4000
"""The futures that are drawn, unless a number is given."""
FREE = 192
"""Windows that are drawn freely, at most."""
BLOCKS = 8
"""The fewest different times of which windows are taken, where there are so many."""
LAGS = 48
SHOWN = 12


class SeriesMeasurement(Measurement):
    """Scores of forecasts over blocks of windows, and distances between drawn and held-out windows."""

    name: ClassVar[str] = "series"

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        enough(extent.samples)
        if dataset.rows("test") < 2:
            raise UserError(
                f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} windows and evaluation "
                "needs at least 2; add data, or raise split.test of its row in params.yaml."
            )
        assert isinstance(dataset.tensors, Series)
        self.dataset, self.binning = dataset, dataset.tensors.binning
        columns = dataset.columns("test")
        self.test = dataset.tensors.batch(columns)
        self.values = columns["values"].numpy()[:, : self.binning.window]
        self.channel, self.start = columns["channel"].numpy(), columns["start"].numpy()
        self.chosen = _chosen(self.start, self.channel, max(2, (extent.samples or DRAWN) // FUTURES))
        self.season = self.binning.season if self.binning.season < self.binning.context else 1
        self.free = min(FREE, len(self.values))
        self.protocol = {
            "version": VERSION,
            "samples": len(self.chosen) * FUTURES,
            "split": "test",
            "held_out": len(self.chosen),
            "reference": self.free,
            "blocks": len(np.unique(self.start[self.chosen])),
            "futures": FUTURES,
            "context": self.binning.context,
            "horizon": self.binning.horizon,
            "baseline": f"seasonal naive, {self.season} steps" if self.season > 1 else "naive",
            "asked": "nothing",
            "seed": SEED,
            "width": WIDTH,
        }

    @cached_property
    def context(self) -> Values:
        """What comes before the chosen forecasts, [N, C]."""
        return self.values[self.chosen, : self.binning.context]

    @cached_property
    def truth(self) -> Values:
        """What came then, [N, H]."""
        return self.values[self.chosen, self.binning.context :]

    @cached_property
    def measured(self) -> tuple[Values, Values]:
        """Place and size of the chosen windows, [N] each."""
        count = np.full(len(self.chosen), self.binning.context, dtype=np.int64)
        return self.binning.measured(self.values[self.chosen], count, self.channel[self.chosen])

    @cached_property
    def blocks(self) -> Values:
        """Which forecasts are of one time, [N]."""
        return self.start[self.chosen].astype(np.float64)

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the naive forecast and white noise, and of training windows."""
        futures = self._futures(subject, say)
        quantiles = np.quantile(futures, LEVELS, axis=1).transpose(1, 0, 2)
        forecasts = Forecasts(quantiles, self.truth, self.context, self.season)
        trivial = naive(self.context, self.binning.horizon, self.season)
        columns = {"model": forecasts, "baseline": self._trivial(trivial)}
        found = {name: scores(one, self.blocks, mix(SEED, 1)) for name, one in columns.items()}
        say("measuring the likelihood of the test split")
        nats = self._nats(subject)
        if nats is not None:
            found["model"]["nats_per_value"] = nats
            found["baseline"]["nats_per_value"] = self._trivial_nats()
        say("drawing windows")
        drawn = self._drawn(subject)
        sets = self._sets(drawn)
        say("comparing drawn windows with held-out ones")
        for name, windows in sets.items():
            found.setdefault(name, {}).update(self._distances(windows))
        metrics = {name: _metrics(one) for name, one in found.items()}
        files = {
            "forecasts.png": self._fans(forecasts),
            "samples.png": self._shown(drawn),
        }
        return Measured(metrics["model"], metrics["baseline"], metrics["real"], files, self._facts(columns))

    def _futures(self, subject: Subject, say: Say) -> Values:
        """Futures [N, FUTURES, H] of the chosen windows; future i of window w has a seed of its own."""
        rows = self.test.data[self.chosen][:, : HEAD + self.binning.context]
        prompts = rows.repeat_interleave(FUTURES, 0)
        parts = []
        for first in range(0, len(prompts), WIDTH):
            if first // WIDTH % 4 == 0:
                say(f"drawing forecasts … {100 * first // len(prompts)}%")
            part = prompts[first : first + WIDTH]
            seed = torch.arange(first, first + len(part)) + SEED
            asked = Requests(seed=seed, prompt=part, options=_options(len(part), self.binning.horizon))
            parts.append(subject.sample(asked, WIDTH)[:, : self.binning.horizon])
        tokens = torch.cat([prompts[:, -1:], torch.cat(parts)], dim=1).numpy()
        place, size = (np.repeat(one, FUTURES) for one in self.measured)
        values = self.binning.values(tokens, place, size)[:, 1:]
        return values.reshape(len(self.chosen), FUTURES, self.binning.horizon)

    def _trivial(self, forecast: Normal) -> Forecasts:
        return Forecasts(forecast.quantiles, self.truth, self.context, self.season)

    def _nats(self, subject: Subject) -> Interval | None:
        """−log of the density of a value of the horizon, in nats, for values in sizes of their window.

        A bin's chance is spread evenly over its width.
        """
        chosen = select(self.test, torch.from_numpy(self.chosen))
        parts = []
        for first in range(0, len(chosen), WIDTH):
            nats = subject.nats(select(chosen, slice(first, first + WIDTH)))
            if nats is None:
                return None
            parts.append(nats)
        found = finite(torch.cat(parts), "likelihoods of test windows").double().numpy()
        bins = chosen.data[:, HEAD + self.binning.context :].numpy() - self.binning.first_bin
        found = found + np.log(self.binning.widths[bins]).sum(1)
        return self._per_value(found)

    def _trivial_nats(self) -> Interval:
        size, forecast = self.measured[1], step_by_step(self.context, self.truth, self.season)
        return self._per_value((forecast.nats(self.truth) - np.log(size)[:, None]).sum(1))

    def _per_value(self, nats: Values) -> Interval:
        parts = {"nats": nats, "values": np.full(len(nats), float(self.binning.horizon))}
        sums = block_sums(parts, self.blocks)
        return interval(lambda found: found["nats"] / found["values"], sums, mix(SEED, 2))

    def _drawn(self, subject: Subject) -> tuple[Whole, Values]:
        """Channels and values of windows that the model draws from their beginning."""
        parts = []
        for first in range(0, self.free, WIDTH):
            seed = torch.arange(first, min(first + WIDTH, self.free)) + SEED
            options = _options(len(seed), HEAD - 1 + self.binning.window)
            parts.append(subject.sample(Requests(seed=seed, options=options), WIDTH))
        return self.binning.drawn(torch.cat(parts).numpy())

    @cached_property
    def _train(self) -> tuple[Whole, Values]:
        """Channels and values of training windows, evenly over all rows."""
        columns = self.dataset.columns("train")
        length, values = columns["length"].numpy(), columns["values"].numpy()
        rows = np.linspace(0, len(length) - 1, self.free).astype(np.int64)
        random = np.random.default_rng(mix(SEED, 3))
        first = random.integers(0, length[rows] - self.binning.window + 1)
        windows = np.take_along_axis(values[rows], first[:, None] + np.arange(self.binning.window), axis=1)
        return columns["channel"].numpy()[rows], windows

    @cached_property
    def _usual(self) -> tuple[Values, Values]:
        """The mean and the deviation of each channel in training, [channels] each."""
        columns = self.dataset.columns("train")
        channel, length = columns["channel"].numpy(), columns["length"].numpy()
        known = np.arange(columns["values"].shape[1]) < length[:, None]
        values = columns["values"].numpy()
        found = [
            values[channel == number][known[channel == number]]
            for number in range(len(self.binning.channels))
        ]
        means = np.array([one.mean() if len(one) else 0.0 for one in found])
        return means, np.array([(one.std() if len(one) else 0.0) or 1.0 for one in found])

    def _scaled(self, channel: Whole, values: Values) -> Windows:
        means, deviations = self._usual
        return Windows((values - means[channel, None]) / deviations[channel, None])

    @cached_property
    def _real(self) -> Windows:
        """Held-out windows, in order of time within each channel."""
        rows = np.linspace(0, len(self.values) - 1, self.free).astype(np.int64)
        return self._scaled(self.channel[rows], self.values[rows])

    def _sets(self, drawn: tuple[Whole, Values]) -> Mapping[str, Windows]:
        """Windows of the model, white noise with the channels' own mean and deviation, and training windows."""
        noise = np.random.default_rng(mix(SEED, 4)).standard_normal((self.free, self.binning.window))
        return {
            "model": self._scaled(*drawn),
            "baseline": Windows(noise),
            "real": self._scaled(*self._train),
        }

    def _distances(self, windows: Windows) -> dict[str, Interval]:
        lags = min(LAGS, self.binning.window // 2)
        return {
            "autocorrelation_distance": autocorrelation_distance(windows, self._real, lags, mix(SEED, 5)),
            "marginal_distance": marginal_distance(windows, self._real, mix(SEED, 6)),
            "discriminative_score": discriminative_score(windows, self._real, SEED),
        }

    def _facts(self, columns: Mapping[str, Forecasts]) -> dict[str, dict[str, float]]:
        """What has no direction; and the forecast that repeats the last value, beside the seasonal one."""
        last = self._trivial(naive(self.context, self.binning.horizon, 1))
        plain = scores(last, self.blocks, mix(SEED, 1))
        scaled = (self.truth - self.measured[0][:, None]) / self.measured[1][:, None]
        beyond = (scaled < self.binning.edges[0]) | (scaled > self.binning.edges[-1])
        return {
            "coverage_80": {name: float(one.parts()["inside"].mean()) for name, one in columns.items()},
            "naive_weighted_quantile_loss": {"baseline": plain["weighted_quantile_loss"][0]},
            "naive_mase": {"baseline": plain["mase"][0]},
            "beyond_the_bins": {"real": float(beyond.mean())},
        }

    def _fans(self, forecasts: Forecasts) -> bytes:
        """Forecasts over the truth: the median, and where 80% and 40% of the futures lie."""
        rows = np.linspace(0, len(self.chosen) - 1, min(SHOWN, len(self.chosen))).astype(np.int64)
        before = min(self.binning.context, 3 * self.binning.horizon)
        panels = []
        for row in rows:
            quantiles, first = forecasts.quantiles[row], before
            bands = [Band(quantiles[0], quantiles[-1], first), Band(quantiles[2], quantiles[-3], first)]
            lines = [
                Line(np.concatenate([self.context[row, -before:], self.truth[row]]), 0, GREY),
                Line(quantiles[LEVELS.index(0.5)], first, ORANGE),
            ]
            name, step = self.binning.names[self.channel[self.chosen[row]]], int(self.start[self.chosen[row]])
            title = f"{name}, step {step + self.binning.context}"
            panels.append(Panel(title, lines, bands, marks=[before - 0.5]))
        return chart(panels, columns=3, size=(380, 190))

    def _shown(self, drawn: tuple[Whole, Values]) -> bytes:
        """Drawn windows, and below them real ones in grey."""
        rows = np.linspace(0, len(self.values) - 1, SHOWN).astype(np.int64)
        names = self.binning.names
        own = [Panel(names[channel], [Line(row)]) for channel, row in zip(*drawn, strict=True)][:SHOWN]
        real = [Panel(f"real: {names[self.channel[row]]}", [Line(self.values[row], 0, GREY)]) for row in rows]
        return chart([*own, *real], columns=4, size=(290, 150))


def _chosen(start: Whole, channel: Whole, most: int) -> Whole:
    """The rows of about `most` windows: evenly spaced times, and of each all channels, or some where there are many."""
    times, channels = np.unique(start), np.unique(channel)
    blocks = min(len(times), max(min(BLOCKS, most), most // len(channels)))
    kept = times[np.linspace(0, len(times) - 1, blocks).astype(np.int64)]
    some = channels[
        np.linspace(0, len(channels) - 1, min(len(channels), max(1, most // blocks))).astype(np.int64)
    ]
    found: Whole = np.flatnonzero(np.isin(start, kept) & np.isin(channel, some))
    return found[np.lexsort((channel[found], start[found]))]


def _options(rows: int, new: int) -> dict[str, torch.Tensor]:
    """So many new tokens and no end."""
    return {
        "max_tokens": torch.full((rows,), new, dtype=torch.int64),
        "end": torch.full((rows,), NOTHING, dtype=torch.int64),
    }


def _metrics(found: Mapping[str, Interval]) -> dict[str, Metric]:
    return {name: Metric(*values, Series.metrics[name]) for name, values in found.items()}
