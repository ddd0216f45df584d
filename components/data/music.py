"""Music from a source to Parquet: each piece once, a notation fitted, rows of tokens, piano rolls to look at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.dataset import SPLITS, Split, file_hash
from components.data.encoding import RowPlan, Tokenized, Tokens, cut, packed, write_rows
from components.data.example import Dropped, Progress
from components.data.packing import held_out_windows, pack, training_windows
from components.data.reading import check_splits
from components.data.report import Tally, Written
from components.data.scores import Piece, open_pieces
from components.data.spool import HELD_OUT, split_of
from components.families.family import END
from components.modalities.notation import NOTATION, Notation, fit
from components.modalities.roll import rolls
from components.modalities.score import Note, NotMusic, Score
from components.modalities.text import schema
from components.music_rows import MusicRow
from components.project import Project

NOUN = "piece"
SHOWN, SHOWN_BARS = 6, 16
"""How many pieces the preview shows, and how many bars of each."""


@dataclass(frozen=True)
class _Packed:
    """A piece in little memory: its name, what it is without notes, and those as int32 [N, 4]."""

    name: str
    about: Score
    notes: Tokens

    @classmethod
    def of(cls, piece: Piece) -> _Packed:
        """The same piece."""
        rows = [(note.start, note.voice, note.pitch, note.length) for note in piece.score.notes]
        return cls(piece.name, replace(piece.score, notes=()), np.array(rows, dtype=np.int32).reshape(-1, 4))

    @property
    def score(self) -> Score:
        """The piece as it was."""
        return replace(self.about, notes=tuple(Note(*row) for row in self.notes.tolist()))


@dataclass
class _Collection:
    """Pieces by their content, each once; `places` say their official splits."""

    pieces: dict[str, _Packed] = field(default_factory=dict)
    places: dict[str, Split | None] = field(default_factory=dict)

    def score(self, key: str) -> Score:
        """The piece of a content."""
        return self.pieces[key].score

    def add(self, piece: Piece) -> str | None:
        """Keep a piece, or return why not: its notes are there already.

        Of notes in two official splits the held-out copy counts: tests stay whole and do not leak.
        """
        key = content_id(piece.score)
        if key not in self.pieces:
            self.pieces[key], self.places[key] = _Packed.of(piece), piece.split
            return None
        if HELD_OUT[piece.split] > HELD_OUT[self.places[key]]:
            self.places[key] = piece.split
        return "the same notes as another"

    def splits(self, row: MusicRow) -> dict[Split, list[str]]:
        """The pieces of each split, sorted by content; those that the source lacks are cut from the rest by hash."""
        official = set(self.places.values())
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for key in sorted(self.pieces):
            found[split_of(key, self.places[key], official, row.split)].append(key)
        return found


def content_id(score: Score) -> str:
    """The sha256 of a piece's notes, the same in every key, in hex.

    So a piece that is there in two keys stands in one split, once.
    """
    lowest = min((note.pitch for note in score.pitched), default=0)
    notes = [(one.start, one.voice, one.pitch, one.length) for one in score.moved(-lowest).notes]
    return hashlib.sha256(json.dumps([notes, score.steps]).encode()).hexdigest()


@dataclass(frozen=True)
class _Some(Sequence[Score]):
    """Pieces of a collection, each unpacked when it is looked at."""

    collection: _Collection
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: Any) -> Any:
        return self.collection.score(self.keys[place])


@dataclass
class _Encoded:
    """A split as tokens: its pieces one behind the other, and how many steps they have."""

    sequences: list[Tokenized]
    flat: Tokens
    frames: int

    @cached_property
    def predicted(self) -> int:
        """The tokens of all pieces, with the `END` behind each."""
        return sum(len(sequence) - 1 for sequence in self.sequences)


def write_music(project: Project, name: str, row: MusicRow, folder: Path, progress: Progress) -> Written:
    """Read the pieces of `row` and write the splits, the notation and `preview.png` into `folder`.

    Raises `UserError` for a source that cannot be read, or has too few pieces.
    """
    tally, collection = Tally(), _Collection()
    for piece in _counted(open_pieces(project, name, row, progress), tally):
        fault = collection.add(piece)
        if fault:
            tally.drop(piece.name, fault)
    splits = collection.splits(row)
    check_splits(name, row.split, splits, tally, NOUN)
    notation = fit(row.notation, _Some(collection, splits["train"]), row.steps)
    encoded = {split: _encode(notation, collection, keys, tally) for split, keys in splits.items()}
    kept = {split: [one.key for one in found.sequences] for split, found in encoded.items()}
    check_splits(name, row.split, kept, tally, NOUN)
    return _write(folder, name, row, notation, encoded, tally)


def _counted(found: Iterable[Piece | Dropped], tally: Tally) -> Iterator[Piece]:
    for piece in found:
        tally.read += 1
        if isinstance(piece, Dropped):
            tally.drop(piece.name, piece.reason)
        else:
            yield piece


def _encode(notation: Notation, collection: _Collection, keys: Sequence[str], tally: Tally) -> _Encoded:
    """The tokens of a split; pieces that the notation cannot write are counted."""
    parts: list[int] = []
    sequences: list[Tokenized] = []
    frames = 0
    for key in keys:
        try:
            tokens = notation.encode(collection.score(key))
        except NotMusic as reason:
            tally.drop(collection.pieces[key].name, str(reason))
            continue
        first = len(parts)
        parts += [END, *tokens, END]
        sequences.append(Tokenized(key, first, first, len(parts)))
        frames += notation.decode(tokens).length
    return _Encoded(sequences, np.array(parts, dtype=np.int32), frames)


def _plans(found: _Encoded, split: Split, width: int) -> list[RowPlan]:
    """The rows of a split: short training pieces together, held-out ones alone; long ones in windows."""
    short = [one for one in found.sequences if len(one) <= width]
    together = (
        pack([len(one) - 2 for one in short], width) if split == "train" else [[n] for n in range(len(short))]
    )
    rows = [packed([short[place] for place in places]) for places in together]
    windows = training_windows if split == "train" else held_out_windows
    for one in found.sequences:
        if len(one) > width:
            rows += [cut(one, window) for window in windows(len(one), width)]
    return sorted(rows, key=lambda row: row.key)


def _write(
    folder: Path,
    name: str,
    row: MusicRow,
    notation: Notation,
    encoded: Mapping[Split, _Encoded],
    tally: Tally,
) -> Written:
    """Write the rows, the notation and the preview."""
    asset = notation.save(folder)
    assert asset == NOTATION
    about = {"name": name, "licence": row.licence, "source": row.source, "modality": row.modality}
    shape = {
        "shape": [row.context],
        "vocabulary": notation.vocabulary,
        "prompt": [row.context, notation.vocabulary],
    }
    plans = {split: _plans(found, split, row.context) for split, found in encoded.items()}
    longest = max(len(plan) for rows in plans.values() for plan in rows)
    arrow = schema({**about, **shape, "longest": longest}, False)
    for field_name in ("lower", "higher"):
        arrow = arrow.append(pa.field(field_name, pa.int32()))
    files = {}
    for split, rows in plans.items():
        shifts = _Shifts(notation, encoded[split].flat, row.transpose if split == "train" else 0)
        for path, count in write_rows(
            folder / split, rows, encoded[split].flat, arrow, longest, shifts.columns
        ):
            files[f"{split}/{path.name}"] = {"rows": count, "sha256": file_hash(path)}
    manifest = {
        **about,
        "revision": _revision(row, notation, encoded),
        **shape,
        "classes": [],
        "files": files,
        "assets": {asset: file_hash(folder / asset)},
        "details": {
            "notation": notation.kind,
            "steps": notation.steps,
            "frames": {split: found.frames for split, found in encoded.items()},
            "tokens": {split: found.predicted for split, found in encoded.items()},
            "documents": {split: len(found.sequences) for split, found in encoded.items()},
        },
    }
    (folder / "preview.png").write_bytes(_preview(notation, encoded["train"]))
    return Written(manifest, _report(name, manifest, plans, encoded, tally))


@dataclass(frozen=True)
class _Shifts:
    """How far rows may be moved, in semitones, without leaving the pitches of the notation."""

    notation: Notation
    flat: Tokens
    most: int

    def columns(self, rows: Sequence[RowPlan]) -> list[pa.Array]:
        """`lower` and `higher` of these rows."""
        found = [self._of(row) for row in rows]
        return [pa.array([pair[side] for pair in found], pa.int32()) for side in (0, 1)]

    def _of(self, row: RowPlan) -> tuple[int, int]:
        tokens = np.concatenate([self.flat[slice(*span)] for span in row.spans])
        pitches = self.notation.pitches[tokens]
        pitches = pitches[pitches >= 0]
        if not len(pitches):
            return 0, 0
        down, up = int(pitches.min()) - self.notation.lowest, self.notation.highest - int(pitches.max())
        return min(self.most, down), min(self.most, up)


def _revision(row: MusicRow, notation: Notation, encoded: Mapping[Split, _Encoded]) -> str:
    """The sha256 of what the dataset is: the notation, the lengths, and the content of each split in order."""
    settings = ["music", repr(notation), row.context, row.transpose]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for split, found in encoded.items():
        digest.update(json.dumps([split, [one.key for one in found.sequences]]).encode())
        digest.update(found.flat.tobytes())
    return digest.hexdigest()


def _report(
    name: str,
    manifest: Mapping[str, Any],
    plans: Mapping[Split, Sequence[RowPlan]],
    encoded: Mapping[Split, _Encoded],
    tally: Tally,
) -> dict[str, Any]:
    return {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": tally.read - tally.counts.total(),
        "dropped": tally.dropped(),
        "ignored_columns": [],
        "vocabulary": manifest["vocabulary"],
        "splits": {
            split: {
                "rows": len(plans[split]),
                "pieces": len(found.sequences),
                "frames": found.frames,
                "tokens": found.predicted,
            }
            for split, found in encoded.items()
        },
    }


def _preview(notation: Notation, found: _Encoded) -> bytes:
    """The beginnings of the first training pieces, out of their tokens."""
    scores = [notation.decode(found.flat[one.first : one.last].tolist()) for one in found.sequences[:SHOWN]]
    return rolls([score.cut(0, SHOWN_BARS * score.bar) for score in scores])
