"""The rows of datasets of music: where pieces come from, how they are written as tokens, what training may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.row import DatasetRow, Part, RemoteFile, Split, check_place

Shift = Annotated[int, Field(ge=0, le=11)]


class MusicRow(DatasetRow):
    """What every source of music has in common: its notation, the lengths of rows, how training moves pieces.

    `notation` is `grid`, a token for each voice and step, or `events`, for any number of notes at once. A quarter has
    `steps`. `context` is T, the tokens of a row. Training moves a piece by up to `transpose` semitones up or down, as
    far as the pitches of all training pieces reach.
    """

    modality: Literal["music"] = "music"
    notation: Literal["grid", "events"] = "grid"
    steps: int = Field(default=4, ge=1, le=24)
    context: int = Field(default=512, ge=16, le=65_536)
    transpose: Shift = 6
    split: Split = Split()


class CounterpointRow(MusicRow):
    """Four voices in quarters that are made by rules, not composed: `count` pieces of eight bars, in many keys."""

    source: Literal["counterpoint"]
    steps: Literal[1] = 1
    notation: Literal["grid"] = "grid"
    context: int = Field(default=132, ge=16, le=65_536)
    count: int = Field(default=400, ge=20, le=100_000)


class ChoralesRow(MusicRow):
    """A JSON of grids by URL: official splits hold pieces, pieces hold steps, steps hold a pitch for each voice.

    A negative pitch is silence. `every` says which of the steps are kept, the first of so many: with 4 of sixteenths,
    `steps` being 1, quarters stay. `bar` counts the quarters of a bar, which such files do not say.
    """

    source: Literal["chorales"]
    notation: Literal["grid"] = "grid"
    every: int = Field(default=1, ge=1, le=96)
    bar: int = Field(default=4, ge=1, le=8)
    tempo: float = Field(default=80.0, ge=10, le=400)
    voices: tuple[str, ...] = ("soprano", "alto", "tenor", "bass")
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        if self.files and self.files.keys() != {"all"}:
            raise ValueError("one file holds all splits; call it “all”")
        return self


class MidiRow(MusicRow):
    """A person's MIDI files in the folder `path`, or archives of such in `files` by URL: `all`, or official splits.

    A grid needs files whose tracks are single voices, all of one number; events take any.
    """

    source: Literal["midi"]
    notation: Literal["grid", "events"] = "events"
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        return self
