"""Pieces of music out of their sources: MIDI files in folders and archives, grids in JSON, and those made by rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.archive import archives
from components.data.counterpoint import pieces
from components.data.dataset import Split
from components.data.describe import MIDI
from components.data.example import OFFICIAL, Dropped, Progress, legible
from components.data.fetch import fetch
from components.data.layout import is_official, split_by_folder
from components.data.sources import source_path
from components.data.trees import Folder, Tree
from components.errors import UserError
from components.modalities.decoding import NotAPicture
from components.modalities.midi import read_midi
from components.modalities.score import Frame, NotMusic, Score, Voice, of_frames
from components.music_rows import ChoralesRow, CounterpointRow, MidiRow, MusicRow
from components.project import Project

HIGHEST = 127


@dataclass(frozen=True)
class Piece:
    """A piece of a source, with its official split, if it has one."""

    name: str
    score: Score
    split: Split | None = None


def open_pieces(project: Project, name: str, row: MusicRow, progress: Progress) -> Iterator[Piece | Dropped]:
    """The pieces that `row` describes and what is left out, in an order that only its content decides.

    Raises `UserError`.
    """
    if isinstance(row, CounterpointRow):
        return (Piece(f"piece#{number}", score) for number, score in enumerate(pieces(row.count)))
    if isinstance(row, ChoralesRow):
        return _chorales(project, row, progress)
    assert isinstance(row, MidiRow)
    return _midi(trees(project, row, progress), row, name, progress)


def trees(project: Project, row: MidiRow, progress: Progress) -> list[tuple[Tree, Split | None]]:
    """The folder of a row, or its archives, each with the official split that it holds."""
    if row.path is not None:
        return [(Folder(source_path(project, row.path)), None)]
    return list(archives(project, row.files, progress))


def midi_files(tree: Tree) -> list[str]:
    """The MIDI files of a tree, by their names; `UserError` if there are none."""
    found = [file for file in tree.files if file.lower().endswith(MIDI)]
    if not found:
        raise UserError(f"{tree.where} holds no MIDI file (.mid, .midi); put some there.")
    return found


def _midi(
    found: Sequence[tuple[Tree, Split | None]], row: MidiRow, name: str, progress: Progress
) -> Iterator[Piece | Dropped]:
    total = sum(len(midi_files(tree)) for tree, _ in found)
    done = 0
    for tree, split in found:
        files = midi_files(tree)
        official = split is None and is_official(files)
        for file in files:
            own = split_by_folder(file) if official else split
            yield own if isinstance(own, Dropped) else _read(tree, file, row, own)
            done += 1
            progress(f"{name} (files)", done, total)


def _read(tree: Tree, file: str, row: MidiRow, split: Split | None) -> Piece | Dropped:
    try:
        return Piece(legible(file), read_midi(tree.content(file), row.steps), split)
    except (NotMusic, NotAPicture) as reason:
        return Dropped(legible(file), str(reason))
    except OSError as error:
        return Dropped(legible(file), f"cannot be read: {error.strerror or type(error).__name__}")


def _chorales(project: Project, row: ChoralesRow, progress: Progress) -> Iterator[Piece | Dropped]:
    path = source_path(project, row.path) if row.path else fetch(row.files["all"], project.settings, progress)
    for part, grids in _parts(path).items():
        for number, grid in enumerate(grids):
            where = f"{part}#{number}"
            frames = _frames(grid, len(row.voices), f"{path.name}, {where}")[:: row.every]
            if not any(pitch is not None for frame in frames for pitch in frame):
                yield Dropped(where, "no notes")
                continue
            voices = [Voice(voice) for voice in row.voices]
            score = of_frames(frames, voices, row.steps, row.bar * row.steps, row.tempo)
            yield Piece(where, score, OFFICIAL[part])


def _parts(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); correct the row in params.yaml.") from error
    good = isinstance(content, dict) and content and content.keys() <= OFFICIAL.keys()
    if not good or not all(isinstance(grids, list) for grids in content.values()):
        raise UserError(
            f"{path} holds no object of lists called {', '.join(OFFICIAL)}; the source chorales reads such files only."
        )
    return dict(content)


def _frames(grid: Any, voices: int, where: str) -> list[Frame]:
    """The steps of a piece; raises `UserError` unless each has a whole number for each voice."""
    if not isinstance(grid, list) or not all(
        isinstance(frame, list) and len(frame) == voices for frame in grid
    ):
        raise UserError(
            f"{where} is no list of steps of {voices} pitches each; name as many voices in the row as a step has."
        )
    found: list[Frame] = []
    for frame in grid:
        if not all(isinstance(pitch, (int, float)) and pitch <= HIGHEST for pitch in frame):
            raise UserError(
                f"{where} holds a pitch that is no number up to {HIGHEST}; mend the file, or leave it out."
            )
        found.append([int(pitch) if pitch >= 0 else None for pitch in frame])
    return found
