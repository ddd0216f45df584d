"""What every source yields: entries whose pictures are decoded on demand, and what it had to leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.data.dataset import Split

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
"""One picture, uint8 [C, H, W], C-contiguous."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

OFFICIAL: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""The names of folders and files that mark an official split."""


class NotARecording(Exception):  # noqa: N818 - it names a finding about one file, which is then left out
    """This file holds no recording that can be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture or recording of a source before it is decoded; `load` raises `NotAPicture` or `NotARecording`.

    `label` is the name of its class, if the source has classes; `split` its official split, if it has one; `caption`
    says what is to be seen, if the source has captions.
    """

    name: str
    load: Callable[[], Pixels]
    label: str | None = None
    split: Split | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that a source left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What is to be read: at most `total` entries, all of one `shape` [C, H, W] once they are decoded.

    `classes` are the names in their official order, if the source has one; `ignored` names its columns that
    are not used. Of `paired` ones, each entry is decoded to [2C, H, W]: what is wanted above what it is made of.
    """

    shape: tuple[int, int, int]
    total: int
    entries: Iterable[Entry | Dropped]
    classes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    paired: bool = False


def legible(name: str) -> str:
    """`name` as it can be written: what is no Unicode in the name of a file or a class appears as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def silent(what: str, done: int, total: int) -> None:
    """The progress that nobody is told of."""
