"""The rows of datasets of time series: where they come from, how long windows are, how values become tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.row import DatasetRow, RemoteFile, Split, check_place


class SeriesRow(DatasetRow):
    """What every source of series has in common: `context` steps from which `horizon` steps are forecast.

    `season` is the period in steps, 1 for none: by it the baseline forecasts. `scaling` says what a window is measured
    by, `bins` are the values that a step may have. Gaps of at most `fill` steps are interpolated; windows that touch
    longer ones are left out. `split` holds out the end: the last share is the test, the one before it val. `limit` is
    the most steps that are read.
    """

    modality: Literal["series"] = "series"
    context: int = Field(default=96, ge=8, le=16_384)
    horizon: int = Field(default=24, ge=1, le=4096)
    season: int = Field(default=1, ge=1, le=16_384)
    scaling: Literal["mean", "standard", "last", "steps"] = "standard"
    bins: int = Field(default=256, ge=16, le=4096)
    fill: int = Field(default=8, ge=0, le=1000)
    split: Split = Split()
    limit: int | None = Field(default=None, ge=1)

    @property
    def window(self) -> int:
        """The steps of a window."""
        return self.context + self.horizon


class StatsmodelsRow(SeriesRow):
    """A series that the package statsmodels brings; all of these are in the public domain.

    `co2`: weekly means at Mauna Loa, 1958 to 2001, with gaps; `elnino`: monthly sea surface temperatures, 1950 to 2010;
    `sunspots`: yearly, 1700 to 2008.
    """

    source: Literal["statsmodels"]
    licence: str = "public domain"
    series: Literal["co2", "elnino", "sunspots"]


class SeriesFilesRow(SeriesRow):
    """CSV or Parquet at `path`, a file or a folder of them, or a single file by URL as `files.all`.

    A file is a table with a row a step; each column of numbers is a channel, or only `columns`. `time` names the column
    of times, which is found by itself where its cells are dates.
    """

    source: Literal["series"]
    path: str | None = None
    files: Mapping[Literal["all"], RemoteFile] = {}
    time: str | None = None
    columns: Sequence[str] = ()

    @field_validator("columns")
    @classmethod
    def _each_once(cls, columns: Sequence[str]) -> Sequence[str]:
        if len(set(columns)) < len(columns):
            raise ValueError("a channel stands there twice; name each once")
        return columns

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, {"all": self.files["all"]} if self.files else {})
        return self
