"""From a dataset's row to prepared Parquet: what to keep, the splits, a manifest, a report, a preview."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL.Image import DecompressionBombWarning

from components.data.dataset import Dataset, Split, file_hash, open_dataset
from components.data.example import Dropped, Entry, NotAPicture, Pixels, Progress, Source, silent
from components.data.sources import open_source, source_path
from components.data.spool import Spool, parts
from components.data.stages import Lines, ensure_stage, ensure_workspace, repro
from components.errors import UserError
from components.modalities.image import grid, schema
from components.project import AnyDataset, FolderRow, ParquetRow, Project, open_project

WINDOW_BYTES = 64 * 2**20
"""Bytes of decoded pictures that wait in memory to be written."""
NAMED = 20
"""How many of the files with the same fault the report names."""


def prepare(project: Project, name: str, target: Path, progress: Progress | None = None) -> Dataset:
    """Read the source of the dataset `name` and write it to `target`, which is replaced whole at the end.

    Beside the Parquet files of the splits lie `dataset.json` (the manifest), `report.json` and `preview.png`.
    Equal input gives equal bytes. Raises `UserError`, and leaves `target` as it was.
    """
    row = project.dataset(name)
    say = progress or silent
    _put_back(target)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        source = open_source(project, row, say)
        with Spool(draft / "spool", source.shape) as spool:
            tally = _read(name, source, spool, say)
            _write(draft, name, row, source, spool, tally)
        _replace(target, draft)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_dataset(target)


def reproduce(
    project: Project, names: Sequence[str], force: bool = False, progress: Progress | None = None
) -> list[Dataset]:
    """Bring datasets up to date with their rows and sources, by DVC; what is unchanged is not read again.

    A dataset without a stage gets one, a project without a DVC workspace too. Raises the stage's `UserError`.
    """
    for name in names:
        row = project.dataset(name)
        if isinstance(row, FolderRow | ParquetRow):
            source_path(project, row)
    ensure_workspace(project)
    for name in names:
        ensure_stage(project, name)
    repro(project, names, force, progress or silent)
    return [open_dataset(project.prepared / name) for name in names]


@dataclass
class _Tally:
    """What was read and what was left out, with the names of the first few files of each reason."""

    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, name: str, reason: str) -> None:
        self.counts[reason] += 1
        named = self.names.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(name)

    def dropped(self) -> dict[str, Any]:
        return {
            reason: {"count": self.counts[reason], "files": self.names[reason]}
            for reason in sorted(self.names)
        }


def _read(name: str, source: Source, spool: Spool, progress: Progress) -> _Tally:
    """Decode every entry into the spool, except what cannot be read and what is there already."""
    tally = _Tally()
    for found in _decoded(source):
        tally.read += 1
        if isinstance(found, Dropped):
            tally.drop(found.name, found.reason)
        else:
            entry, image = found
            fault = spool.add(image, entry.label, entry.split)
            if fault:
                tally.drop(entry.name, fault)
        progress(f"{name} (pictures)", tally.read, source.total)
    return tally


def _decoded(source: Source) -> Iterator[tuple[Entry, Pixels] | Dropped]:
    """The entries in order, decoded by threads, a bounded number ahead."""
    workers = os.cpu_count() or 1
    ahead = max(workers, min(1024, WINDOW_BYTES // math.prod(source.shape)))
    entries = iter(source.entries)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore", DecompressionBombWarning)  # a large picture, not yet one too large
        while some := list(islice(entries, ahead)):
            for part in pool.map(_load, parts(some, -(-ahead // (16 * workers)))):
                yield from part


def _load(entries: Sequence[Entry | Dropped]) -> list[tuple[Entry, Pixels] | Dropped]:
    loaded: list[tuple[Entry, Pixels] | Dropped] = []
    for entry in entries:
        try:
            loaded.append(entry if isinstance(entry, Dropped) else (entry, entry.load()))
        except NotAPicture as reason:
            loaded.append(Dropped(entry.name, str(reason)))
    return loaded


def _write(folder: Path, name: str, row: AnyDataset, source: Source, spool: Spool, tally: _Tally) -> None:
    """Write the splits, the manifest, the report and the preview."""
    splits = spool.splits(row.split)
    _check_splits(name, row, splits, tally)
    classes = list(source.classes) or spool.classes()
    about = {"name": name, "licence": row.licence, "source": row.source}
    arrow = schema(source.shape, classes, about)
    files = {}
    for split, keys in splits.items():
        for path, rows in spool.write(folder / split, keys, arrow, classes):
            files[f"{split}/{path.name}"] = {"rows": rows, "sha256": file_hash(path)}
    manifest = {
        **about,
        "modality": row.modality,
        "revision": spool.revision(splits, classes),
        "shape": list(source.shape),
        "classes": classes,
        "files": files,
    }
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": sum(len(keys) for keys in splits.values()),
        "dropped": tally.dropped(),
        "ignored_columns": list(source.ignored),
        "splits": {split: _count(spool, keys, classes) for split, keys in splits.items()},
    }
    _write_json(folder / "dataset.json", manifest)
    _write_json(folder / "report.json", report)
    some = spool.pictures(splits["train"][: _preview_size(source.shape)])
    (folder / "preview.png").write_bytes(grid(torch.from_numpy(some).float() / 127.5 - 1))


def _check_splits(name: str, row: AnyDataset, splits: Mapping[Split, Sequence[str]], tally: _Tally) -> None:
    """Raise `UserError` with the arithmetic unless every split has a row."""
    if all(splits.values()):
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.counts.most_common(3))
    left_out = f" ({reasons})" if reasons else ""
    kept = sum(len(keys) for keys in splits.values())
    if kept == 0:
        raise UserError(
            f"The dataset “{name}” has no picture that can be read: {tally.read} found, {tally.read} left out"
            f"{left_out}; put pictures where its row points."
        )
    shares = ", ".join(f"{len(keys)} to {split}" for split, keys in splits.items())
    raise UserError(
        f"The dataset “{name}” has too few pictures: {tally.read} found, {tally.read - kept} left out{left_out}, "
        f"{kept} kept, of which {shares}, but each split needs at least one; add pictures, or raise "
        f"split.val ({row.split.val:g}) or split.test ({row.split.test:g}) of its row in params.yaml."
    )


def _count(spool: Spool, keys: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    counts = Counter(spool.label(key) for key in keys)
    return {"rows": len(keys), "classes": {name: counts[name] for name in classes}}


def _preview_size(shape: Sequence[int]) -> int:
    """As many pictures as make a sheet of at most about 1,024 pixels a side, but 4 at least, 100 at most."""
    return min(100, max(2, 1024 // max(shape[1:])) ** 2)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(target: Path, draft: Path) -> None:
    """Put the folder `draft` where `target` is."""
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _put_back(target: Path) -> None:
    """Undo the first half of a replacement that was stopped between its two renames."""
    if _old(target).is_dir() and not target.exists():
        _old(target).rename(target)


def _old(target: Path) -> Path:
    """Where the former data waits until the new one is in its place."""
    return target.with_name(f".{target.name}.old")


def _cannot_write(target: Path, error: OSError) -> UserError:
    cause = error.strerror or str(error)
    where = error.filename or target
    return UserError(
        f"{where} cannot be read or written: {cause}; free some space or change its permissions."
    )


def main(arguments: Sequence[str]) -> int:
    """The command of the DVC stages: `python -m components.data.prepare NAME`; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a stage that is stopped takes its draft away
    try:
        project = open_project()
        for name in arguments:
            prepare(project, name, project.prepared / name, Lines(sys.stderr))
    except UserError as error:
        print(f"genloom: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
