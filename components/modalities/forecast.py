"""The body that asks for series, how it becomes rows of tokens, and how drawn rows become numbers for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from components.errors import UserError, shortened, unknown
from components.families.family import NOTHING, Requests
from components.modalities.binning import ANY, HEAD, LEAST_CONTEXT, Binning
from components.modalities.modality import Order
from components.modalities.tables import Times, Values, filled, following, read_csv, regular

QUANTILES = (0.1, 0.5, 0.9)
ROWS = 1024
"""The most rows of a request: futures, or windows, of every channel; more never find room in an engine's queue."""
LARGEST = 1e100
"""The largest magnitude of a context's values: squares of larger ones are no numbers any more."""
MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8"}
UNNAMED = "value"

Quantile = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def _rising(quantiles: list[float]) -> list[float]:
    return sorted(set(quantiles))


def _context(value: Any) -> Any:
    """A context as it is read: a text, or numbers by channel, missing ones None. Raises `ValueError`."""
    if isinstance(value, dict):
        if not value:
            raise ValueError("“context” names no channel; send its numbers, or leave it out")
        return {name: _numbers(values, f"“context.{shortened(str(name))}”") for name, values in value.items()}
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    return _numbers(value, "“context”")


def _numbers(value: Any, which: str) -> list[float | None]:
    """The numbers of one channel; raises `ValueError`."""
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{which} is no list of numbers, object of such by channel or text of CSV; send one of these"
        )
    for place, one in enumerate(value):
        number = isinstance(one, int | float) and not isinstance(one, bool)
        if one is not None and not (number and abs(one) <= LARGEST):
            raise ValueError(
                f"{which} has no number of at most {LARGEST:g} at place {place}; send one, or null where it is missing"
            )
    return [None if one is None else float(one) for one in value]


class SeriesRequest(BaseModel):
    """What `POST /v1/generations` takes for a model of series.

    With a `context`, `n` futures of it are drawn, `horizon` steps long (by default, as long as the model learned), with
    their `quantiles`; it is a list of numbers, an object of such by channel, or the text of a CSV file. Without one,
    `n` windows as in the data. `channel` says which of the model's channels a nameless list is, or is drawn.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    context: str | list[float | None] | dict[str, list[float | None]] | None = None
    horizon: int | None = Field(default=None, ge=1, le=65_536)
    n: int = Field(default=1, ge=1, le=ROWS)
    quantiles: Annotated[list[Quantile], Field(max_length=99), AfterValidator(_rising)] = list(QUANTILES)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    channel: str | None = Field(default=None, max_length=256)
    format: Literal["json", "csv"] = "json"
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, content: Any) -> Any:
        if isinstance(content, dict) and "context" in content:
            return {**content, "context": _context(content["context"])}
        return content

    @model_validator(mode="after")
    def _possible(self) -> SeriesRequest:
        if self.channel is not None and not isinstance(self.context, list | None):
            raise ValueError(
                "“channel” is for a list of numbers, and this “context” names its own; leave one out"
            )
        return self


@dataclass(frozen=True)
class Asked:
    """A request as it is computed: the contexts by name with the model's channel of each (−1 for none).

    Of `context` None, windows are drawn; `filled` counts the values that were missing and interpolated.
    """

    names: Sequence[str]
    channels: Sequence[int]
    horizon: int
    context: Sequence[Values] | None = None
    times: Times | None = None
    filled: int = 0


def asked(body: SeriesRequest, binning: Binning) -> Asked:
    """What `body` asks of a model. Raises `UserError` for what it cannot do."""
    horizon = binning.horizon if body.context is not None else binning.window
    horizon = body.horizon or horizon
    if body.context is None:
        return _windows(body, binning, horizon)
    most = binning.window - LEAST_CONTEXT
    if horizon > most:
        raise UserError(
            f"“horizon” is {horizon} and this model looks at most {most} steps ahead; ask for fewer, or train one with "
            "a longer horizon."
        )
    read, times = _read(body)
    return _forecasts(body, binning, horizon, read, times)


def _windows(body: SeriesRequest, binning: Binning, horizon: int) -> Asked:
    """Windows as in the data, of one channel or of any."""
    if horizon > binning.window:
        raise UserError(
            f"“horizon” is {horizon} and a window of this model has {binning.window} steps; ask for fewer."
        )
    own = -1 if body.channel is None else _channel(body.channel, binning)
    return Asked([body.channel or "window"], [own], horizon)


def _forecasts(
    body: SeriesRequest, binning: Binning, horizon: int, read: Mapping[str, Values], times: Times | None
) -> Asked:
    """Futures of each series that was read."""
    if body.n * len(read) > ROWS:
        raise UserError(
            f"“n” asks for {body.n * len(read)} futures ({body.n} of {len(read)} channels) and may ask for {ROWS}; "
            "ask for fewer."
        )
    contexts, gaps = [], 0
    for name, values in read.items():
        whole, count = filled(values, max(1, len(values)))
        kept = whole[~np.isnan(whole)]
        if len(kept) and math.isnan(whole[-1]):
            raise UserError(
                f"The context of “{shortened(name)}” ends with a missing value; send it up to one that is known."
            )
        if len(kept) and float(np.abs(kept).max()) > LARGEST:
            raise UserError(
                f"The context of “{shortened(name)}” has values beyond {LARGEST:g}; send them in a larger unit."
            )
        if len(kept) < LEAST_CONTEXT:
            raise UserError(
                f"The context of “{shortened(name)}” has {len(kept)} values and a forecast needs {LEAST_CONTEXT}; send "
                f"more, best {binning.context}."
            )
        contexts.append(kept[-min(binning.context, binning.window - horizon) :])
        gaps += count
    names = list(read)
    if body.channel is not None:
        return Asked([body.channel], [_channel(body.channel, binning)], horizon, contexts, times, gaps)
    channels = [binning.names.index(name) if name in binning.names else -1 for name in names]
    return Asked(names, channels, horizon, contexts, times, gaps)


def _channel(name: str, binning: Binning) -> int:
    if name not in binning.names:
        raise unknown("channel", name, binning.names)
    return binning.names.index(name)


def _read(body: SeriesRequest) -> tuple[dict[str, Values], Times | None]:
    """The series of a context by name, NaN where a value is missing, and their times where a CSV has such."""
    if isinstance(body.context, str):
        table = regular(read_csv(body.context, "The context"), "The context")
        return {name: table.values[:, place] for place, name in enumerate(table.names)}, table.times
    given = body.context if isinstance(body.context, dict) else {UNNAMED: body.context or []}
    return {
        name: np.array([math.nan if value is None else value for value in values])
        for name, values in given.items()
    }, None


def order(body: SeriesRequest, binning: Binning, seeds: Sequence[int]) -> Order:
    """A row for each future, or window, of each channel; answer i is a CSV file with future i of all channels.

    The futures of one answer share its seed. Raises `UserError`.
    """
    wanted = asked(body, binning)
    rows = [(channel, seed) for seed in seeds for channel in range(len(wanted.names))]
    prompts = [_prompt(wanted, channel, binning) for channel in range(len(wanted.names))]
    new = wanted.horizon if wanted.context is not None else _drawn_tokens(wanted)
    requests = Requests(
        seed=torch.tensor([_own(seed, channel) for channel, seed in rows], dtype=torch.int64),
        prompt=_padded([prompts[channel] for channel, _ in rows]),
        options=_options(len(rows), new, body.temperature),
    )
    many = len(wanted.names)
    return Order(
        requests=requests,
        seeds=seeds,
        parts=[slice(place * many, (place + 1) * many) for place in range(len(seeds))],
        encode=lambda _, output: _csv(*future(wanted, binning, output)),
        labels=[None] * len(seeds),
    )


def _own(seed: int, channel: int) -> int:
    """Channels of one answer get seeds of their own; that of the first is the answer's."""
    return (seed + (channel << 40)) % 2**63


def _drawn_tokens(wanted: Asked) -> int:
    """The tokens of a window that is drawn: what is not told of its head, and its values."""
    return HEAD - (1 if wanted.channels[0] < 0 else 2) + wanted.horizon


def _prompt(wanted: Asked, place: int, binning: Binning) -> list[int]:
    """What a row begins with: of a forecast, the head and the context; of a window, perhaps its channel."""
    channel = wanted.channels[place]
    told = [] if channel < 0 else [ANY + 1 + channel]
    if wanted.context is None:
        return [0, *told]
    values = wanted.context[place][None]
    index = np.array([channel])
    measured = binning.measured(values, np.array([values.shape[1]]), index)
    return [0, *(told or [ANY]), ANY, ANY, *binning.tokens(values, *measured)[0].tolist()]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[NOTHING] * (width - len(row))] for row in rows], dtype=torch.int64)


def _options(rows: int, new: int, temperature: float) -> dict[str, Tensor]:
    """So many new tokens and no end: a series has none."""
    return {
        "max_tokens": torch.full((rows,), new, dtype=torch.int64),
        "end": torch.full((rows,), NOTHING, dtype=torch.int64),
        "temperature": torch.full((rows,), temperature, dtype=torch.float32),
    }


def future(wanted: Asked, binning: Binning, output: Tensor) -> tuple[Sequence[str], Values]:
    """Names and values [horizon, channels] of one answer out of its rows of `output` [channels, T]."""
    tokens = output.numpy().astype(np.int64)
    if wanted.context is None:
        own = wanted.channels[0]
        which, values = binning.drawn(tokens, None if own < 0 else own)
        return [binning.names[which[0]]], values[:, : wanted.horizon].T
    found = []
    for place, context in enumerate(wanted.context):
        index = np.array([wanted.channels[place]])
        measured = binning.measured(context[None], np.array([len(context)]), index)
        row = tokens[place : place + 1, : wanted.horizon]
        known = np.concatenate([binning.tokens(context[None, -1:], *measured), row], axis=1)
        found.append(binning.values(known, *measured)[0, 1:])
    return wanted.names, np.stack(found, axis=1)


def _csv(names: Sequence[str], values: Values) -> bytes:
    """A header of channels and a line a step."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_short(value) for value in row] for row in values])
    return stream.getvalue().encode("utf-8")


def _short(value: float) -> str:
    """Nine digits: more than a bin tells."""
    return f"{value:.9g}"


def unread(files: Sequence[bytes]) -> tuple[list[list[str]], list[Values]]:
    """The names, and the values [horizon, channels], of each of the files that `order` makes."""
    names, values = [], []
    for file in files:
        head, *rows = csv.reader(io.StringIO(file.decode("utf-8")))
        names.append(head)
        values.append(np.array([[float(cell) for cell in row] for row in rows]))
    return names, values


def collected(
    body: SeriesRequest, binning: Binning, files: Sequence[bytes], seeds: Sequence[int]
) -> dict[str, Any]:
    """All answers together: of a forecast, quantiles and samples of each channel; of windows, the values of each.

    `seeds` are those of the `files`.
    """
    wanted = asked(body, binning)
    names, values = unread(files)
    if wanted.context is None:
        windows = zip(names, values, seeds, strict=True)
        data = [
            {"channel": name[0], "seed": seed, "values": rows[:, 0].tolist()} for name, rows, seed in windows
        ]
        return {"horizon": wanted.horizon, "data": data}
    every = np.stack(values)  # [n, horizon, channels]
    data = [_told(name, every[:, :, column], body.quantiles) for column, name in enumerate(wanted.names)]
    times = {} if wanted.times is None else {"times": following(wanted.times, wanted.horizon)}
    return {"horizon": wanted.horizon, "filled": wanted.filled, "seeds": list(seeds), **times, "data": data}


def _told(channel: str, samples: Values, quantiles: Sequence[float]) -> dict[str, Any]:
    """What an answer says of a channel, of which the `samples` [n, horizon] were drawn."""
    levels = {f"{level:g}": np.quantile(samples, level, axis=0).tolist() for level in quantiles}
    return {"channel": channel, "quantiles": levels, "samples": samples.tolist()}


def joined(answers: Sequence[Mapping[str, Any]], quantiles: Sequence[float]) -> dict[str, Any]:
    """What `collected` would say if the requests of these `answers`, whose seeds follow each other, were one."""
    first, every = answers[0], [one["data"] for one in answers]
    if "seeds" not in first:
        return {**first, "data": list(chain.from_iterable(every))}
    samples = [
        np.array(list(chain.from_iterable(one["samples"] for one in told)))
        for told in zip(*every, strict=True)
    ]
    names = [one["channel"] for one in first["data"]]
    data = [_told(name, drawn, quantiles) for name, drawn in zip(names, samples, strict=True)]
    return {**first, "seeds": [seed for one in answers for seed in one["seeds"]], "data": data}


def as_json(content: Mapping[str, Any]) -> bytes:
    """What `collected` found, perhaps with more before it."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8")


def as_csv(content: Mapping[str, Any]) -> bytes:
    """The same as a table: a line a channel and step with its quantiles and samples, or a column a window."""
    data = content["data"]
    if data and "values" in data[0]:
        names = [f"{one['channel']}#{one['seed']}" for one in data]
        return _csv(names, np.stack([one["values"] for one in data], axis=1))
    times = content.get("times")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    labels = [f"q{level}" for level in data[0]["quantiles"]]
    futures = [f"sample{place + 1}" for place in range(len(data[0]["samples"]))]
    writer.writerow(["channel", "step", *(["time"] if times else []), *labels, *futures])
    for one in data:
        numbers = np.array([*one["quantiles"].values(), *one["samples"]]).T
        for step, row in enumerate(numbers):
            writer.writerow([one["channel"], step + 1, *([times[step]] if times else []), *map(_short, row)])
    return stream.getvalue().encode("utf-8")
