"""The hashes of what a server gave out, so that a file which has lost its mark is known again.

Kept beside the records and as long as they are, by the same policy: nothing where a product keeps no records.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components import files
from components.serving.records import moment, prune
from components.settings import Settings

log = logging.getLogger(__name__)
GATHER = 0.5
"""Seconds in which lines gather before they are written together."""
MOST = 100_000
"""Lines that may wait for a slow disk; the oldest are dropped, as no request waits."""


@dataclass(frozen=True)
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
    """Writes lines into `folder`/DAY.jsonl, half a second after the first of them, on a thread of its own."""

    def __init__(self, settings: Settings, product: str) -> None:
        self.folder, self.product = folder_of(settings, product), product
        self._days = settings.records_days
        self._waiting: deque[tuple[float, str, int, int, str]] = deque(maxlen=MOST)
        self._lock, self._soon, self._day = threading.Lock(), False, ""

    def add(self, content: str, version: int, seed: int, request: str) -> None:
        """Keep a line soon; the caller waits for nothing."""
        self._waiting.append((time.time(), content, version, seed, request))
        if not self._soon:
            self._soon = True
            threading.Timer(GATHER, self.flush).start()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._soon = False  # what comes from now on is seen below, or begins a timer of its own
            lines = "".join(self._lines())
            if not lines:
                return
            try:
                self._write(lines)
            except OSError:  # a full disk must not end serving
                log.exception("hashes of what %s gave out could not be written", self.product)

    def _lines(self) -> Iterator[str]:
        while self._waiting:
            at, content, version, seed, request = self._waiting.popleft()
            issued = Issued(moment(at), content, self.product, version, seed, request)
            yield json.dumps(vars(issued), separators=(",", ":")) + "\n"

    def _write(self, lines: str) -> None:
        day = datetime.now(UTC).date().isoformat()
        self.folder.mkdir(parents=True, exist_ok=True)
        if day != self._day:
            prune(self.folder, self._days)
            self._day = day
        files.append(self.folder / f"{day}.jsonl", lines)


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
