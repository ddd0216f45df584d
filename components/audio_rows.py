"""The rows of datasets of recordings: where they come from, their rate and length, how their classes are found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.row import DatasetRow, Expression, Part, RemoteFile, Split, check_place


class AudioRow(DatasetRow):
    """What every source of recordings has in common: they are brought to `rate` samples a second and one length.

    A longer one is cut after `seconds`, a shorter one ends in silence. With `normalize`, the peak of each is brought
    to 90% of full scale.
    """

    modality: Literal["audio"] = "audio"
    split: Split = Split()
    rate: int = Field(default=8000, ge=4000, le=48_000)
    seconds: float = Field(default=1.0, ge=0.05, le=30)
    normalize: bool = True

    @property
    def samples(self) -> int:
        """T, the samples of a prepared recording."""
        return round(self.rate * self.seconds)


class PlucksRow(AudioRow):
    """Plucked strings that are synthesised, not recorded: `count` of them, eight notes in turn.

    Their loudness varies, so by default it is left as it is.
    """

    source: Literal["plucks"]
    seconds: float = Field(default=0.25, ge=0.05, le=30)
    normalize: bool = False
    count: int = Field(default=320, ge=8, le=100_000)


def _said(word: str) -> str:
    if not word.strip():
        raise ValueError("a class needs a name; write one, or leave the line out")
    return word.strip()


class RecordingsRow(AudioRow):
    """A person's recordings at `path`, or archives of them in `files` by URL: `all`, or official splits.

    They lie as pictures do: in class folders, or with a `metadata.jsonl`. Instead, `names` may be a regular expression
    that a file's name must match as a whole; its group `label` is the class. `words` says what classes that are found
    are called. Files in whose name `held_out` is found are the official test split.
    """

    source: Literal["recordings"]
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}
    names: Expression | None = None
    held_out: Expression | None = None
    words: Mapping[str, Annotated[str, AfterValidator(_said)]] = {}

    @field_validator("held_out")
    @classmethod
    def _holds_out_some(cls, held_out: str | None) -> str | None:
        if held_out is not None and re.search(held_out, ""):
            raise ValueError(
                "it is found in every name, so all would be held out; write one such as _[0-4][.]wav$"
            )
        return held_out

    @field_validator("names")
    @classmethod
    def _has_a_label(cls, names: str | None) -> str | None:
        if names is not None and "label" not in re.compile(names).groupindex:
            raise ValueError("it has no group “label”; write one such as (?P<label>[a-z]+)_[0-9]+[.]wav")
        return names

    @field_validator("words", mode="before")
    @classmethod
    def _numbers_are_labels(cls, words: Any) -> Any:
        """YAML takes an unquoted 7 for a number."""
        if not isinstance(words, Mapping):
            return words
        return {str(label) if type(label) is int else label: word for label, word in words.items()}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        if self.held_out is not None and "test" in self.files:
            raise ValueError("held_out and files.test both say what the test is; leave one of them out")
        return self
