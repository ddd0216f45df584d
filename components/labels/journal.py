"""The hashes of what a server gave out, so that a file which has lost its mark is known again.

Kept beside the records and as long as they are, by the same policy: nothing where a product keeps no records.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from components.serving.lines import Days, Gathered, line, moment
from components.settings import Settings


@dataclass
class Issued:
    """A file that was given out: the hash of its content, by which version, with which seed, for which request."""

    at: str
    content: str
    product: str
    version: int
    seed: int
    request: str

    @property
    def name(self) -> str:
        """The version, such as digits/3."""
        return f"{self.product}/{self.version}"


class Journal:
    """Keeps a line of each file that a server gave out of `product`, in the file of its day."""

    def __init__(self, settings: Settings, product: str) -> None:
        self.product = product
        self._lines = Gathered(Days(folder_of(settings, product), settings.records_days))

    def add(self, content: str, version: int, seed: int, request: str) -> None:
        """Keep a line soon; the caller waits for nothing."""
        issued = Issued(moment(time.time()), content, self.product, version, seed, request)
        self._lines.add(line(vars(issued)))

    def flush(self) -> None:
        """Write what waits."""
        self._lines.flush()


def folder_of(settings: Settings, product: str | None = None) -> Path:
    """Where the hashes of a product's files lie, or of all products'."""
    folder = settings.shared / "issued"
    return folder if product is None else folder / product


def find(settings: Settings, content: str, name: str | None = None) -> Issued | None:
    """The newest line about a file with this content: of the version `name`, such as digits/3, if it gave one out.

    Several may have given out the same, such as a short text.
    """
    wanted = f'"content":"{content}"'.encode()
    found = [line for path in folder_of(settings).glob("*/*.jsonl") for line in _lines_with(path, wanted)]
    issued = [one for line in found if (one := _parsed(line)) is not None]
    return max(issued, key=lambda one: (one.name == name, one.at), default=None)


def _lines_with(path: Path, wanted: bytes) -> list[bytes]:
    try:
        with path.open("rb") as file:
            return [line for line in file if wanted in line]
    except FileNotFoundError:  # its days are over just now
        return []


def _parsed(line: bytes) -> Issued | None:
    try:
        return Issued(**json.loads(line))
    except (ValueError, TypeError):
        return None
