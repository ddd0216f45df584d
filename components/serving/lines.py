"""Lines of JSON that a server keeps beside its answers: gathered, appended to the file of their day, deleted later."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import orjson

from components import files

log = logging.getLogger(__name__)
GATHER = 0.1
"""Seconds in which lines gather before they are written together: a file is opened once for all of them."""
MOST = 2**25
"""Characters of lines that may wait for a slow disk; more are lost, as no request waits."""


def line(content: Mapping[str, Any]) -> str:
    """`content` as JSON on a line; of text that is no Unicode the lone surrogates are written as escapes."""
    try:
        return orjson.dumps(content).decode()
    except TypeError:
        return json.dumps(content, separators=(",", ":"))


class Days:
    """The files DAY.jsonl of `folder`, which their owner alone reads; those older than `days` go when a day begins."""

    def __init__(self, folder: Path, days: int) -> None:
        self.folder, self.days = folder, days
        self._pruned = ""

    def append(self, lines: Sequence[str]) -> None:
        """Add lines in one call, so that several replicas may write into one file. Raises `OSError`."""
        day = datetime.now(UTC).date().isoformat()
        self.folder.mkdir(parents=True, exist_ok=True)
        if day != self._pruned:
            self._pruned = day
            self._prune()
        files.append(self.folder / f"{day}.jsonl", "".join(f"{own}\n" for own in lines))

    def _prune(self) -> None:
        try:
            prune(self.folder, self.days)
        except OSError:  # what cannot be deleted is no reason to keep nothing new
            log.exception("the oldest files of %s could not be deleted", self.folder)


class Gathered:
    """Lines that are appended to `days` soon after the first of them, on the thread that writes all lines."""

    def __init__(self, days: Days) -> None:
        self.days = days
        self._waiting: deque[str] = deque()
        self._held = self._lost = 0
        self._lock, self._soon = Lock(), False

    def add(self, line: str) -> None:
        """Keep a line soon; the caller waits for nothing, and one for which there is no room is lost."""
        if self._held > MOST:
            self._lost += 1
            return
        self._held += len(line)
        self._waiting.append(line)
        if not self._soon:
            self._soon = True
            WRITER.soon(self)

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._soon = False  # what comes from now on is seen below, or asks for the thread again
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            lost, self._held, self._lost = self._lost, 0, 0
            if lost:  # told once: a log that is told of each is one more slow disk
                log.error("%d lines of %s were lost: the disk is too slow", lost, self.days.folder)
            if not lines:
                return
            try:
                self.days.append(lines)
            except OSError:  # a full disk must not end serving
                log.exception("%d lines could not be written into %s", len(lines), self.days.folder)


class Writer:
    """The thread that writes what has gathered, one for a process: to start one each time costs more than to write."""

    def __init__(self) -> None:
        self._due: SimpleQueue[Gathered] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None

    def soon(self, lines: Gathered) -> None:
        """Have `lines` written `GATHER` seconds from now."""
        self._due.put(lines)
        if self._thread is None:
            with self._lock:
                self._begin()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="lines", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            due = [self._due.get()]
            time.sleep(GATHER)
            due += [self._due.get_nowait() for _ in range(self._due.qsize())]
            for lines in due:
                try:
                    lines.flush()
                except Exception:  # whatever becomes of some lines, others come
                    log.exception("lines of %s were lost", lines.days.folder)


WRITER = Writer()


def prune(folder: Path, days: int) -> list[Path]:
    """Delete the files of days that are more than `days` ago, and say which."""
    oldest = datetime.now(UTC).date() - timedelta(days=days)
    gone = [path for path in folder.glob("*.jsonl") if _day(path) < oldest]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


def _day(path: Path) -> date:
    """The day of a file; one that we did not name is left alone."""
    try:
        return date.fromisoformat(path.stem)
    except ValueError:
        return date.max


def moment(at: float) -> str:
    """Seconds since the epoch in ISO 8601, to the millisecond before."""
    whole = int(at)
    return f"{_second(whole)}.{int((at - whole) * 1000):03d}+00:00"


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")[:19]
