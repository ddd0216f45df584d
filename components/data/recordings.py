"""Recordings from a source to Parquet: clips of one length, each content once, split by hash, with spectrograms."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.audio_rows import AudioRow, PlucksRow, RecordingsRow
from components.data.archive import archives, joined
from components.data.dataset import Split, file_hash
from components.data.example import Dropped, Entry, Pixels, Progress, Source, legible
from components.data.layout import Found, Sorted, is_official, named_files, sort_files, split_by_folder
from components.data.plucks import open_plucks
from components.data.reading import check_splits, count, first_rows, read
from components.data.report import Tally, Written
from components.data.sound import read_clip
from components.data.sources import source_path
from components.data.spool import Column, Spool, content_id, write_columns
from components.data.trees import Folder, Tree
from components.modalities.audio import Audio, save_rate, schema
from components.modalities.waveform import FRAMES_A_SECOND
from components.project import Project

NOUN = "recording"


def write_audio(project: Project, name: str, row: AudioRow, folder: Path, progress: Progress) -> Written:
    """Read the recordings of `row` and write the splits and `preview.png` into `folder`; raises `UserError`."""
    cut: set[str] = set()
    source = open_recordings(project, row, progress, cut)
    with Spool(folder / "spool", source.shape, noun=NOUN) as spool:
        tally = read(name, source, spool, progress)
        splits = spool.splits(row.split)
        check_splits(name, row.split, splits, tally, NOUN)
        classes = list(source.classes) or _in_order(row, spool.classes())
        return _write(folder, name, row, _Draft(spool, splits, classes), tally, source.ignored, cut)


def open_recordings(project: Project, row: AudioRow, progress: Progress, cut: set[str]) -> Source:
    """The entries that `row` describes, uint8 [1, 1, 2·T]; the ids of those that are cut enter `cut` as they load.

    Raises `UserError`.
    """
    if isinstance(row, PlucksRow):
        return open_plucks(row)
    assert isinstance(row, RecordingsRow)
    if row.path is not None:
        return _opened(Folder(source_path(project, row.path)), row, None, cut)
    return joined([_opened(tree, row, split, cut) for tree, split in archives(project, row.files, progress)])


def _opened(tree: Tree, row: RecordingsRow, split: Split | None, cut: set[str]) -> Source:
    """The recordings of a tree, all of the official `split` if one is given."""
    files = named_files(tree, NOUN)
    found = sort_files(tree, files, split) if row.names is None else _by_name(files, row.names, split)
    entries = [_entry(tree, file, row, cut) for file in found.files]
    return Source((1, 1, 2 * row.samples), len(entries), entries, ignored=found.ignored)


def _by_name(files: Sequence[str], names: str, split: Split | None) -> Sorted:
    """Files whose classes stand in their names."""
    expression, official = re.compile(names), split is None and is_official(files)
    found: list[Found | Dropped] = []
    for file in files:
        match = expression.fullmatch(posixpath.basename(file))
        own = split_by_folder(file) if official else split
        if isinstance(own, Dropped):
            found.append(own)
        elif match is None or not match["label"]:
            found.append(Dropped(legible(file), "of a name that “names” does not match"))
        else:
            found.append(Found(file, legible(match["label"]), own))
    return Sorted(found)


def _entry(tree: Tree, found: Found | Dropped, row: RecordingsRow, cut: set[str]) -> Entry | Dropped:
    if isinstance(found, Dropped):
        return found
    held_out = row.held_out is not None and re.search(row.held_out, posixpath.basename(found.file))
    label = None if found.label is None else row.words.get(found.label, found.label)
    load = partial(_load, tree, found.file, row, cut)
    return Entry(legible(found.file), load, label, "test" if held_out else found.split)


def _load(tree: Tree, file: str, row: RecordingsRow, cut: set[str]) -> Pixels:
    levels, was_cut = read_clip(tree.content(file), row)
    if was_cut:
        cut.add(content_id(levels))
    return levels


def _in_order(row: AudioRow, classes: Sequence[str]) -> list[str]:
    """The classes in the order of `words`, behind them those that it does not name."""
    words = list(row.words.values()) if isinstance(row, RecordingsRow) else []
    return sorted(classes, key=lambda name: words.index(name) if name in words else len(words))


@dataclass(frozen=True)
class _Draft:
    """What is to be written: clips in splits, and the names of their classes."""

    spool: Spool
    splits: Mapping[Split, Sequence[str]]
    classes: Sequence[str]

    @property
    def columns(self) -> dict[str, Column]:
        """What makes the columns of the rows, but for their ids."""
        found: dict[str, Column] = {"audio": self.spool.images}
        if self.classes:
            found["label"] = lambda keys: self.spool.labels(keys, self.classes)
        return found

    def revision(self, rate: int) -> str:
        """The sha256 of what the dataset is: the rate, and all that pictures of the same bytes would be."""
        content = ["audio", rate, self.spool.revision(self.splits, self.classes)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(
    folder: Path,
    name: str,
    row: AudioRow,
    draft: _Draft,
    tally: Tally,
    ignored: Sequence[str],
    cut: set[str],
) -> Written:
    """Write the splits, the rate and the preview."""
    about = {"name": name, "licence": row.licence, "source": row.source}
    arrow = schema(row.samples, row.rate, draft.classes, about)
    files = {}
    for split, keys in draft.splits.items():
        for path, rows in write_columns(folder / split, keys, arrow, draft.columns, 2 * row.samples):
            files[f"{split}/{path.name}"] = {"rows": rows, "sha256": file_hash(path)}
    asset = save_rate(folder, row.rate)
    manifest = {
        **about,
        "modality": row.modality,
        "revision": draft.revision(row.rate),
        "shape": [row.samples],
        "classes": draft.classes,
        "files": files,
        "assets": {asset: file_hash(folder / asset)},
        "details": {"rate": row.rate},
    }
    kept = [key for keys in draft.splits.values() for key in keys]
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": len(kept),
        "cut": len(cut.intersection(kept)),
        "dropped": tally.dropped(),
        "ignored_columns": list(ignored),
        "splits": {split: _count(draft, split, row) for split in draft.splits},
    }
    (folder / "preview.png").write_bytes(_preview(folder, row))
    return Written(manifest, report)


def _count(draft: _Draft, split: Split, row: AudioRow) -> dict[str, Any]:
    found = count(draft.spool, draft.splits[split], draft.classes)
    return {**found, "minutes": round(found["rows"] * row.samples / row.rate / 60, 2)}


def _preview(folder: Path, row: AudioRow) -> bytes:
    """The spectrograms of the first training recordings, about 1,200 frames across."""
    frames = max(1, round(FRAMES_A_SECOND * row.samples / row.rate))
    most = min(64, max(2, (1200 // frames) ** 2))
    tensors = Audio(folder)
    batch = tensors.batch(tensors.columns(first_rows(folder / "train" / "00000.parquet", most)))
    return tensors.picture(batch.data)
