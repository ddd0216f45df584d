"""What a project keeps and nobody needs any more, and how the project is looked at to find it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from components.ops.running import held
from components.project import Project
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings
from components.train.runs import RunRecord, read_runs


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Garbage:
    """Files that can go: `changed` is when anything in them last was, in seconds since the epoch.

    Whoever removes them holds `locks` and asks then whether they are `still` garbage.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    changed: float
    why: str
    locks: tuple[Path, ...] = ()
    still: Callable[[], bool] = _always
    found: float = field(default_factory=time.time)

    @cached_property
    def size(self) -> int:
        """The bytes that are freed."""
        return sum(size_of(path) for path in self.paths)


@dataclass(frozen=True)
class View:
    """The project as it is now; of the trainings of a run the newest `keep` are needed, and all since `before`."""

    project: Project
    keep: int
    before: float

    @property
    def settings(self) -> Settings:
        """The project's settings."""
        return self.project.settings

    @cached_property
    def registry(self) -> Registry:
        """The project's registry."""
        return Registry(self.settings)

    @cached_property
    def versions(self) -> list[Version]:
        """All versions of all products."""
        return [one for product in self.registry.products() for one in self.registry.versions(product)]

    @cached_property
    def runs(self) -> list[RunRecord]:
        """The trainings that have ended and are not among the newest of their run."""
        count: dict[str, int] = {}
        found = []
        for record in read_runs(self.settings):  # the newest first
            count[record.run] = count.get(record.run, 0) + 1
            if count[record.run] > self.keep and not self.runs_now(record):
                found.append(record)
        return found

    def runs_now(self, record: RunRecord) -> bool:
        """Whether a process works in the training's folder."""
        return held(record.folder / "lock")

    def old(self, changed: float) -> bool:
        """Whether it is long enough ago."""
        return changed < self.before


Finder = Callable[[View], Iterator[Garbage]]


def changed_of(*paths: Path) -> float:
    """When the newest of those files was changed that are there; 0 if none is."""
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all below a folder; what vanishes meanwhile counts nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(Path(one)) for one in os.scandir(path))
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0
