"""Follows a run's folder from the side of the launcher: progress and pictures go to the log and the terminal."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components import files
from components.errors import UserError
from components.tracking import Tracker
from components.train.runs import report_of

Progress = Callable[[Mapping[str, Any]], None]
INTERVAL = 0.5
"""Seconds between two looks."""
SENDING = 5.0
"""Seconds between two requests to the run log: one costs as much as a step of a small model, on the same cores."""
UNLOGGED = frozenset({"step", "seconds", "warnings"})
"""What a line of progress holds beside numbers that are logged."""


class Watch:
    """A thread that hands on each new line of progress and each new picture, until the `with` block ends."""

    def __init__(self, folder: Path, tracker: Tracker, tracking_run: str, progress: Progress | None) -> None:
        self.folder, self.tracker, self.tracking_run = folder, tracker, tracking_run
        self.progress = progress
        self.offset, self.inode = 0, 0
        self.sent = folder / "sent"
        self.last = self._sent()
        self.read, self.unsent, self.again = self.last, dict[int, dict[str, float]](), 0.0
        self.seen = {path.name for path in (folder / "samples").glob("step-*.*")} if self.last else set()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        try:
            self._look(final=True)
        except UserError as error:
            logging.getLogger(__name__).warning(
                "The run log misses the end of %s: %s", self.folder.name, error
            )

    def _sent(self) -> int:
        """The last step that this run of the log has; 0 if it is another one than before, which then gets all."""
        if not self.sent.is_file():
            return 0
        of, _, step = self.sent.read_text(encoding="utf-8", errors="replace").partition(" ")
        return int(step) if of == self.tracking_run and step.isdecimal() else 0

    def _follow(self) -> None:
        while not self.ended.wait(INTERVAL):
            # a run log that does not answer must not end a training: what it missed is sent with the next look
            with contextlib.suppress(UserError):
                self._look()

    def _look(self, final: bool = False) -> None:
        for line, end in self._new_lines():
            values = {name: value for name, value in line.items() if name not in UNLOGGED}
            if line["step"] > self.read:  # a resumed run repeats what it had sent before it was killed
                self.unsent[line["step"]] = values
                self.read = line["step"]
            self.offset = end
            if self.progress:
                self.progress(line)
            else:
                for sentence in line.get("warnings", ()):
                    logging.getLogger(__name__).warning("%s", sentence)
        self._send(final)
        for path in sorted((self.folder / "samples").glob("step-*.*")):
            if path.suffix != ".part" and path.name not in self.seen:
                self.tracker.picture(self.tracking_run, path)
                self.seen.add(path.name)

    def _send(self, final: bool) -> None:
        """Hand what was read to the run log, if it is time; what it does not take is sent the next time."""
        if not self.unsent or not (final or time.monotonic() >= self.again):
            return
        self.again = time.monotonic() + SENDING
        self.tracker.log(self.tracking_run, self.unsent)
        self.last = max(self.unsent)
        self.unsent = {}
        files.write(self.sent, f"{self.tracking_run} {self.last}")

    def _new_lines(self) -> list[tuple[dict[str, Any], int]]:
        """The lines that are complete and not handed on yet, each with the offset behind it."""
        path = self.folder / "progress.jsonl"
        if not path.is_file():
            return []
        if path.stat().st_ino != self.inode:  # a resumed run cut what came after its checkpoint
            self.offset, self.inode = 0, path.stat().st_ino
        with path.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read()
        found, end = [], self.offset
        for text in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            end += len(text)
            if (line := report_of(text)) is not None:
                found.append((line, end))
        return found
