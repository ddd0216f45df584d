"""Folders of pictures or recordings in tar or zip files that a URL and a hash name, read without unpacking to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from components.data.dataset import Split
from components.data.example import Dropped, Entry, Progress, Source
from components.data.fetch import fetch
from components.data.folder import open_tree
from components.data.trees import Archive
from components.image_rows import ArchiveRow
from components.project import Project
from components.row import Part, RemoteFile


def open_archive(project: Project, row: ArchiveRow, progress: Progress) -> Source:
    """The pictures in the archives of `row`, the official splits in their order; raises `UserError`."""
    return joined(
        [open_tree(tree, row, split) for tree, split in archives(project, row.files, progress)], row.paired
    )


def archives(
    project: Project, files: Mapping[Part, RemoteFile], progress: Progress
) -> Iterator[tuple[Archive, Split | None]]:
    """Archives that are fetched one after the other, each with the official split that it holds; raises `UserError`."""
    for part, file in files.items():
        yield Archive(fetch(file, project.settings, progress), file.url), official(part)


def joined(sources: Sequence[Source], paired: bool = False) -> Source:
    """Several sources as one; where some entries have a class, those that have none are left out."""
    found = [entry for source in sources for entry in source.entries]
    if any(entry.label is not None for entry in found if isinstance(entry, Entry)):
        found = [_labelled(entry) for entry in found]
    ignored = sorted({column for source in sources for column in source.ignored})
    return Source(sources[0].shape, len(found), found, ignored=tuple(ignored), paired=paired)


def official(part: Part) -> Split | None:
    """The official split that a file holds, None for a file that holds everything."""
    return None if part == "all" else part


def _labelled(entry: Entry | Dropped) -> Entry | Dropped:
    if isinstance(entry, Entry) and entry.label is None:
        return Dropped(entry.name, "without a class, which others have")
    return entry
