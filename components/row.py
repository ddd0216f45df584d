"""What the rows of all tables in `params.yaml` have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Part = Literal["all", "train", "val", "test"]
"""What a file of a dataset holds: everything, or an official split."""


class Row(BaseModel):
    """A row of a table: frozen, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _compiles(expression: str) -> str:
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"this regular expression does not compile ({error}); mend it") from error
    return expression


Expression = Annotated[str, AfterValidator(_compiles)]
"""A regular expression."""


class RemoteFile(Row):
    """Bytes that a public URL and a hash name; `sha256` is that of the content after gunzip.

    A `url` such as `mirror:sgd/train.jsonl` says that no server has the file: it must lie in a mirror folder.
    """

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Split(Row):
    """The shares that are held out, by content hash, where the source has no official split."""

    val: float = Field(default=0.1, gt=0, lt=0.5)
    test: float = Field(default=0.1, gt=0, lt=0.5)


class DatasetRow(Row):
    """What every source has in common."""

    source: str
    licence: str = "unknown"


def check_place(path: str | None, files: Mapping[Part, RemoteFile]) -> None:
    """Raise `ValueError` unless there is one place: a path, a single file of “all”, or official splits with “train”."""
    if (path is None) == (not files):
        raise ValueError("give either its path or its files, one of the two")
    if "all" in files and len(files) > 1:
        raise ValueError("files has “all” beside official splits; leave one of them out")
    if files and not {"all", "train"} & files.keys():
        raise ValueError("files has no “train”; add it, or name a single file “all”")
