"""Time series: windows of one channel in Parquet, tokens of a scaled window for families, CSV and JSON for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from components.errors import UserError
from components.families.family import Batch, Kind, Requests, Shape
from components.modalities.binning import ANY, FILE, HEAD, LEAST_CONTEXT, Binning, load_binning
from components.modalities.chart import Line, Panel, chart
from components.modalities.forecast import SeriesRequest, order
from components.modalities.modality import DRAW, Direction, Maker, Modality, Order

FREE, SHORT = 4, 4
"""Of so many training rows, one tells its place and size, and one is scaled by a shorter context."""


class Series(Modality):
    """Windows of channels, each a row of tokens of one tokenizer; a row is scaled by its own context."""

    name: ClassVar[str] = "series"
    makes: ClassVar[str] = "series"
    kind: ClassVar[Kind] = Kind.TOKENS
    request: ClassVar[type[BaseModel]] = SeriesRequest
    media_type: ClassVar[str] = "text/csv; charset=utf-8"
    extension: ClassVar[str] = ".csv"
    gathered: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Direction]] = {
        "weighted_quantile_loss": "lower",
        "mase": "lower",
        "coverage_80_error": "lower",
        "nats_per_value": "lower",
        "autocorrelation_distance": "lower",
        "marginal_distance": "lower",
        "discriminative_score": "lower",
    }
    assets: ClassVar[tuple[str, ...]] = (FILE,)

    @property
    def random(self) -> bool:
        """Windows begin anywhere in a training row."""
        return True

    @cached_property
    def binning(self) -> Binning:
        """The tokenizer of the dataset or the artifact."""
        assert self.folder is not None, "series need the folder of their tokenizer"
        return load_binning(self.folder)

    def check(self, shape: Shape) -> None:
        """Raise `UserError` if the tokenizer is for other rows than the weights."""
        ours, theirs = (self.binning.length, self.binning.vocabulary), (shape.data[0], shape.vocabulary)
        if ours != theirs:
            raise UserError(
                f"The tokenizer in {self.folder} makes rows of {ours[0]} of {ours[1]} tokens and the weights know "
                f"{theirs[0]} of {theirs[1]}; fetch or train the model again, with its own tokenizer."
            )

    def agrees(self, other: Modality) -> bool:
        """Whether the tokenizers are the same."""
        return isinstance(other, Series) and self.binning == other.binning

    def row_bytes(self, schema: pa.Schema) -> int:
        """Values are padded to the longest."""
        return 8 * int(json.loads(schema.metadata[b"genloom"])["longest"])

    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """`values` float64 [N, L] padded with 0; `length`, `channel` and `start` int64 [N]."""
        longest = int(json.loads(table.schema.metadata[b"genloom"])["longest"])
        columns = {
            name: torch.from_numpy(table.column(name).to_numpy().astype(np.int64))
            for name in ("length", "channel", "start")
        }
        flat = np.concatenate([part.flatten().to_numpy() for part in table.column("values").chunks])
        length = columns["length"].numpy()
        values = np.zeros((len(length), longest))
        values[np.arange(longest) < length[:, None]] = flat
        return {"values": torch.from_numpy(values), **columns}

    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """`data` int64 [N, T]: a head and a window, which begins where `DRAW` says (at the first value without it).

        With `DRAW`, some rows tell their place and size, which are then learned, and some are scaled by a shorter
        context. Held-out rows are forecasts: all but the horizon is given.
        """
        binning, values = self.binning, columns["values"].numpy()
        channel = columns["channel"].numpy()
        draw = columns[DRAW].numpy() if DRAW in columns else None
        window, count = _cropped(values, columns["length"].numpy(), draw, binning)
        place, size = binning.measured(window, count, channel)
        head = binning.heads(channel, place, size)
        given = HEAD + count
        if draw is not None:
            turn = (draw >> 33) % FREE
            head[turn != 0, 2:] = ANY
            head[turn == 1, 1] = ANY
            given = np.where(turn == 0, 1, HEAD)
        else:
            head[:, 2:] = ANY
        data = np.concatenate([head, binning.tokens(window, place, size)], axis=1)
        return Batch(
            data=torch.from_numpy(data),
            length=torch.full((len(data),), data.shape[1], dtype=torch.int64),
            given=torch.from_numpy(given),
        )

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """The rows of `order`. Raises `UserError`."""
        return self.order(body, model, seeds).requests

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """Futures of a context, or windows; see components/modalities/forecast.py. Raises `UserError`."""
        return order(body, self.binning, seeds)

    def warm(self, shape: Shape) -> BaseModel:
        """Two steps of a short context."""
        return SeriesRequest(
            context=[float(step % 3) for step in range(LEAST_CONTEXT)], horizon=2, temperature=0.9, seed=0
        )

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight windows as the model itself draws them."""
        return SeriesRequest(n=8, seed=seed)

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """The windows that rows were drawn as, from their beginning, one CSV file each."""
        which, values = self.binning.drawn(output.numpy())
        return [
            "\n".join([self.binning.names[own], *(f"{value:.9g}" for value in row), ""]).encode("utf-8")
            for own, row in zip(which, values, strict=True)
        ]

    def picture(self, output: Tensor) -> bytes:
        """The windows of all rows, drawn from their beginning, a panel each."""
        which, values = self.binning.drawn(output.numpy())
        return chart(
            [Panel(self.binning.names[own], [Line(row)]) for own, row in zip(which, values, strict=True)],
            columns=4,
        )


def _cropped(
    values: np.ndarray[Any, Any],
    length: np.ndarray[Any, Any],
    draw: np.ndarray[Any, Any] | None,
    binning: Binning,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A window [N, W] of each row, and by how many of its first values it is scaled [N]."""
    count = np.full(len(values), binning.context, dtype=np.int64)
    if draw is None:
        return values[:, : binning.window], count
    first = draw % (length - binning.window + 1)
    window = np.take_along_axis(values, first[:, None] + np.arange(binning.window), axis=1)
    least = min(LEAST_CONTEXT, binning.context)
    shorter = least + (draw >> 40) % (binning.context - least + 1)
    return window, np.where((draw >> 37) % SHORT == 0, shorter, count)


def schema(about: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of prepared series: `id`, `values`, their `length`, the `channel`, and where they `start`."""
    fields = [
        pa.field("id", pa.string()),
        pa.field("values", pa.list_(pa.float64())),
        *(pa.field(name, pa.int64()) for name in ("length", "channel", "start")),
    ]
    return pa.schema(
        fields, metadata={"genloom": json.dumps({"modality": "series", **about}, sort_keys=True)}
    )
