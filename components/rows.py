"""The rows of the table `datasets` in `params.yaml`: one class a source, checked and frozen; here those of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.audio_rows import PlucksRow, RecordingsRow
from components.image_rows import (
    OF_PICTURES,
    ArchiveRow,
    DigitsRow,
    FolderRow,
    IdxRow,
    ParquetRow,
    UnpairedRow,
)
from components.music_rows import ChoralesRow, CounterpointRow, MidiRow
from components.row import DatasetRow, Expression, Part, RemoteFile, Split, check_place


class TextSplit(Split):
    """The shares that are held out of text; `val` may be 0."""

    val: float = Field(default=0.1, ge=0, lt=0.5)


Form = Literal["text", "chat", "pairs", "code"]
Length = Annotated[int, Field(ge=8, le=65_536)]
ALPHABET = 256
"""The tokens that byte-level BPE begins with, beside the special ones."""


class TextRow(DatasetRow):
    """What every source of text has in common: its tokenizer, the lengths of rows, what is kept.

    `vocabulary` counts the tokens of BPE. `context` is T, the tokens of a row; `source_length` is S, those of a
    pair's source. `keep` is a regular expression; a document (of a pair, the target) that it does not match as a
    whole is left out. `limit` is the most documents that are read.
    """

    modality: Literal["text"] = "text"
    tokenizer: Literal["characters", "bytes", "bpe"] = "bpe"
    vocabulary: int = Field(default=4096, le=262_144)
    context: Length = 256
    source_length: Length = 256
    split: TextSplit = TextSplit()
    keep: Expression | None = None
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _asks_for_nothing_of_pictures(cls, content: Any) -> Any:
        for field in sorted(OF_PICTURES & content.keys()) if isinstance(content, Mapping) else ():
            raise ValueError(f"“{field}” is for pictures and this dataset holds text; leave it out")
        return content

    @field_validator("vocabulary")
    @classmethod
    def _holds_the_alphabet(cls, vocabulary: int) -> int:
        least = ALPHABET + 6  # the boundary, three roles, the end of a turn, one piece to merge
        if vocabulary < least:
            raise ValueError(
                f"it is smaller than the alphabet of {ALPHABET} bytes with the special tokens; "
                f"take at least {least}"
            )
        return vocabulary


class StdlibRow(TextRow):
    """The standard library of the Python that runs, as code: its functions and methods, or its files."""

    source: Literal["stdlib"]
    unit: Literal["function", "file"] = "function"

    @property
    def form(self) -> Form:
        """Always code."""
        return "code"


Names = Literal["text", "messages", "role", "content", "source", "target"]


class TextFilesRow(TextRow):
    """Text and JSON Lines at `path`, a file or a folder, or `files` by URL: `all`, or official splits.

    Of plain files, `unit` says what a document is: the file, each line, or all of it one text that is cut in
    order. Of records, `form` says which fields are read; `fields` maps a field's name here to its name there,
    `roles` the names of a chat's roles there to those here, and `template` makes a text of several fields. Of a
    list in `target`, the first is taken or `each` makes a pair; any other list is joined by newlines.
    """

    source: Literal["text"]
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}
    form: Form = "text"
    unit: Literal["document", "line", "whole"] = "document"
    fields: Mapping[Names, str] = {}
    roles: Mapping[str, str] = {}
    template: str | None = None
    targets: Literal["first", "each"] = "first"

    @field_validator("template")
    @classmethod
    def _names_fields(cls, template: str | None) -> str | None:
        if template is not None and not template_fields(template):
            raise ValueError("it names no field; write one such as {title}\\n{paragraphs}")
        return template

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, roles: Mapping[str, str]) -> Mapping[str, str]:
        for role in roles.values():
            if role not in ("system", "user", "assistant"):
                raise ValueError(f"“{role}” is no role; there are system, user, assistant")
        return roles

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        return self

    def field(self, name: Names) -> str:
        """What the records call the field `name`."""
        return self.fields.get(name, name)


def template_fields(template: str) -> list[str]:
    """The names of the fields in a template; `ValueError` if one of them is no plain name."""
    names: list[str] = []
    for _, name, form, conversion in Formatter().parse(template):
        if name is not None:
            if not re.fullmatch(r"\w+", name) or form or conversion:
                raise ValueError(f"{{{name}}} is no plain name of a field; write one such as {{title}}")
            names.append(name)
    return names


def filled(template: str, values: Mapping[str, Any]) -> str:
    """`template` with the values of its fields."""
    return "".join(
        before + ("" if name is None else str(values[name]))
        for before, name, _, _ in Formatter().parse(template)
    )


AnyDataset = Annotated[
    DigitsRow
    | IdxRow
    | FolderRow
    | ParquetRow
    | ArchiveRow
    | UnpairedRow
    | StdlibRow
    | TextFilesRow
    | PlucksRow
    | RecordingsRow
    | CounterpointRow
    | ChoralesRow
    | MidiRow,
    Field(discriminator="source"),
]
OwnRow = FolderRow | ParquetRow | TextFilesRow | RecordingsRow | MidiRow
"""The rows of a person's own data, which may lie at a `path`."""
