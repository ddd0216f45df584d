"""The revisions of prepared data in DVC's cache, and which of them nothing names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.project import Project
from components.tables import read_yaml


@dataclass(frozen=True)
class Revision:
    """A revision of a dataset in the cache; `paths` are the files that no other revision has."""

    dataset: str
    revision: str
    paths: tuple[Path, ...]
    changed: float


@dataclass(frozen=True)
class Listed:
    """A folder in the cache: DVC's list of it, and the hashes of its files by their names."""

    path: Path
    files: Mapping[str, str]


def unnamed_revisions(project: Project, named: Collection[str], keep: int) -> list[Revision]:
    """The prepared revisions that neither `dvc.lock` nor `named` has, nor are among the newest `keep` of a dataset.

    Only folders that hold a dataset of ours are looked at: what else DVC keeps for the project stays.
    """
    cache = cache_of(project)
    locked = set(_locked(project))
    listed = list(_listed(cache))
    about = {one.path: known for one in listed if (known := _about(cache, one)) is not None}
    count: dict[str, int] = {}
    gone = []
    for one in sorted(listed, key=lambda one: one.path.stat().st_mtime, reverse=True):
        if one.path not in about:
            continue
        dataset, revision = about[one.path]
        count[dataset] = count.get(dataset, 0) + 1
        if count[dataset] > keep and revision not in named and _hash(one.path) not in locked:
            gone.append(one)
    kept = {digest for one in listed if one not in gone for digest in one.files.values()} | locked
    found: list[Revision] = []
    for one in gone:
        found.append(_revision(cache, one, *about[one.path], kept))
        kept |= set(one.files.values())  # what two of them share goes with the first
    return found


def cache_of(project: Project) -> Path:
    """Where DVC keeps the contents of files by their hashes, unless it was set elsewhere, which it then looks after."""
    return project.root / ".dvc" / "cache" / "files" / "md5"


def _locked(project: Project) -> Iterator[str]:
    """The hashes that `dvc.lock` names."""
    path = project.root / "dvc.lock"
    content = read_yaml(path) if path.is_file() else None
    for stage in ((content or {}).get("stages") or {}).values():
        for out in (*stage.get("outs", ()), *stage.get("deps", ())):
            yield str(out.get("md5", ""))


def _listed(cache: Path) -> Iterator[Listed]:
    for path in cache.glob("??/*.dir"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            rows = json.loads(path.read_text(encoding="utf-8"))
            yield Listed(path, {str(row["relpath"]): str(row["md5"]) for row in rows})


def _about(cache: Path, listed: Listed) -> tuple[str, str] | None:
    """The name and the revision of the dataset in a folder; None for any other folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(_file(cache, listed.files["dataset.json"]).read_text(encoding="utf-8"))
        return str(content["name"]), str(content["revision"])
    return None


def _revision(cache: Path, listed: Listed, dataset: str, revision: str, kept: Collection[str]) -> Revision:
    own = sorted({digest for digest in listed.files.values() if digest not in kept})
    paths = (listed.path, *(path for digest in own if (path := _file(cache, digest)).is_file()))
    return Revision(dataset, revision, paths, listed.path.stat().st_mtime)


def _file(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest[2:]


def _hash(path: Path) -> str:
    """The hash of what lies at a place in the cache."""
    return path.parent.name + path.name
