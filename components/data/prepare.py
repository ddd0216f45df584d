"""From a dataset's row to prepared Parquet: what to keep, the splits, a manifest, a report, a preview."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from components.audio_rows import AudioRow
from components.data.dataset import Dataset, open_dataset
from components.data.example import Progress, silent
from components.data.music import write_music
from components.data.pictures import write_pictures
from components.data.recordings import write_audio
from components.data.report import Written
from components.data.sources import source_path
from components.data.stages import Lines, ensure_stage, ensure_workspace, repro, rows_of
from components.data.text import write_text
from components.data.unpaired import write_unpaired
from components.errors import UserError
from components.image_rows import UnpairedRow
from components.music_rows import MusicRow
from components.project import Project, open_project
from components.rows import OwnRow, TextRow


def prepare(project: Project, name: str, target: Path, progress: Progress | None = None) -> Dataset:
    """Read the source of the dataset `name` and write it to `target`, which is replaced whole at the end.

    Beside the Parquet files of the splits lie `dataset.json` (the manifest), `report.json` and the preview.
    Equal input gives equal bytes. Raises `UserError`, and leaves `target` as it was.
    """
    project.dataset(name)
    _put_back(target)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        _write(project, name, draft, progress or silent).save(draft)
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
    for name in (found for one in names for found in rows_of(project, one)):
        row = project.dataset(name)
        if isinstance(row, OwnRow) and row.path is not None:
            source_path(project, row.path)
    ensure_workspace(project)
    for name in names:
        ensure_stage(project, name)
    repro(project, names, force, progress or silent)
    return [open_dataset(project.prepared / name) for name in names]


def _write(project: Project, name: str, folder: Path, progress: Progress) -> Written:
    """Call the writer of the dataset's modality."""
    row = project.dataset(name)
    if isinstance(row, TextRow):
        return write_text(project, name, row, folder, progress)
    if isinstance(row, UnpairedRow):
        return write_unpaired(project, name, row, folder, progress)
    if isinstance(row, AudioRow):
        return write_audio(project, name, row, folder, progress)
    if isinstance(row, MusicRow):
        return write_music(project, name, row, folder, progress)
    return write_pictures(project, name, row, folder, progress)


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
