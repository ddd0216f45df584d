"""What a person's files look like: of which modality, text of which form, pictures with captions or in pairs."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.audio_rows import RecordingsRow
from components.data.example import NotARecording, legible
from components.data.layout import METADATA
from components.data.molecule_files import COLUMN, LINES, TABLES, header
from components.data.molecule_files import PLAIN as LIST
from components.data.molecule_files import RECORDS as STRUCTURES
from components.data.paired import is_paired
from components.data.parquet import first_sight, parquet_files, texts
from components.data.sound import seconds_of
from components.data.tables import WRITTEN, is_numeric, table_files
from components.data.texts import ABOUT, PLAIN, RECORDS, suffix, text_files
from components.data.trees import Folder
from components.errors import UserError
from components.image_rows import FolderRow, ParquetRow
from components.molecule_rows import MoleculeFilesRow
from components.music_rows import MidiRow
from components.rows import Form, TextFilesRow
from components.series_rows import SeriesFilesRow

CAPTIONS = ("caption", "text")
"""What captions are called where nobody says it; Hugging Face's imagefolder calls them text."""
SINGLE = 2**16
"""Bytes from which on a lone file of text is taken for one text to be cut in order."""
MIDI = (".mid", ".midi")
SOUNDS = frozenset({".wav", ".flac", ".ogg", ".mp3"})
COVERED, MOST_SECONDS = 95, 10
"""So many percent of the recordings are not cut where nobody says how long they are to be, if that is short enough."""


def held(place: Path, options: Mapping[str, Any]) -> str:
    """What the file or folder at `place` holds, as `genloom data add` calls it; `options` may name columns."""
    if is_molecules(place, options.get("smiles")):
        return "molecules"
    if is_music(place):
        return "music"
    if is_sound(place):
        return "recordings"
    if is_series(place):
        return "series"
    return "text" if is_text(place) else "pictures"


def is_molecules(place: Path, column: str | None = None) -> bool:
    """Whether a file or a folder holds molecules: SMILES, SDF, or tables that all have a column of SMILES.

    With `column`, any table and any plain text is taken for one; without, a text is taken for text. A file of
    molecules beside more pictures, recordings or pieces of music is about those.
    """
    files = [place] if place.is_file() else [place / name for name in text_files(place)]
    kinds = [suffix(file.name) for file in files]
    if column is not None and not (TABLES | {LIST}).isdisjoint(kinds):
        return True
    tables = [file for file, kind in zip(files, kinds, strict=True) if kind in TABLES]
    found = sum(kind in (LINES | STRUCTURES) - {LIST} for kind in kinds)
    if all(COLUMN in [name.strip().lower() for name in header(file)] for file in tables):
        found += len(tables)
    suffixes = [file.suffix.lower() for file in files]
    media = _pictures(suffixes), _sounds(suffixes), _pieces(suffixes)
    return found > 0 and found >= max(media)


def is_sound(place: Path) -> bool:
    """Whether a file or a folder holds recordings: no Parquet, and no more pictures or texts than recordings."""
    if place.is_file():
        return place.suffix.lower() in SOUNDS
    suffixes = _suffixes(place)
    sounds = sum(found in SOUNDS for found in suffixes)
    return (
        sounds > 0 and ".parquet" not in suffixes and sounds >= max(_pictures(suffixes), _texts_of(suffixes))
    )


def is_music(place: Path) -> bool:
    """Whether a file is MIDI, or a folder holds MIDI, and no more recordings, pictures or texts than that."""
    suffixes = [place.suffix.lower()] if place.is_file() else _suffixes(place)
    found = _pieces(suffixes)
    return found > 0 and found >= max(_sounds(suffixes), _pictures(suffixes), _texts_of(suffixes))


def _suffixes(folder: Path) -> list[str]:
    """The ends of the names of the files in a folder, without those of metadata."""
    return [Path(name).suffix.lower() for name in Folder(folder).files if Path(name).name != METADATA]


def _pieces(suffixes: Sequence[str]) -> int:
    return sum(found in MIDI for found in suffixes)


def _sounds(suffixes: Sequence[str]) -> int:
    return sum(found in SOUNDS for found in suffixes)


def _pictures(suffixes: Sequence[str]) -> int:
    return sum(found in Image.registered_extensions() for found in suffixes)


def _texts_of(suffixes: Sequence[str]) -> int:
    return sum(found in PLAIN | RECORDS for found in suffixes)


def describe_music(place: Path, where: str, options: Mapping[str, Any]) -> MidiRow:
    """The row for the MIDI files in the folder `place`, written as `where`; `UserError` if it is no folder."""
    if not place.is_dir():
        raise UserError(f"{place} is one piece; give the folder that holds your MIDI files.")
    wanted = {"notation": "events", "steps": 4, **options}  # written out: a person sees what to change
    return MidiRow(source="midi", path=where, modality="music", **wanted)


def describe_recordings(place: Path, where: str, options: Mapping[str, Any]) -> RecordingsRow:
    """The row for the recordings at `place`, written as `where`; `UserError` if it is no folder.

    Unless it is given, they become as long as the 95th percentile of them, at most 10 s.
    """
    files = Folder(place)
    wanted = {"rate": 8000, **options}
    if "seconds" not in wanted:
        wanted["seconds"] = _covering([files.content(file) for file in files.files])
    return RecordingsRow(source="recordings", path=where, modality="audio", **wanted)


def _covering(files: Sequence[Path]) -> float:
    """Seconds, to a tenth, that most of the recordings among `files` do not exceed; 1 if there are none."""
    lengths = []
    for file in files:
        try:
            lengths.append(seconds_of(file))
        except NotARecording:
            continue  # it is counted where the recordings are read
    if not lengths:
        return 1.0
    tenths = math.ceil(10 * float(np.percentile(lengths, COVERED)) - 1e-6)
    return min(MOST_SECONDS, max(1, tenths) / 10)


def is_series(place: Path) -> bool:
    """Whether a file or a folder holds series: CSV, or Parquet of numbers, and no pictures, records or more texts."""
    if place.is_file():
        return suffix(place.name) in WRITTEN or is_numeric(place)
    found = set(table_files(place))
    others = [Path(name) for name in text_files(place) if name not in found]
    kinds = {suffix(path.name) for path in others}
    if kinds & {".parquet", *RECORDS, *Image.registered_extensions()}:
        return False
    texts = sum(suffix(path.name) in PLAIN and not ABOUT.match(path.name) for path in others)
    return len(found) > texts


def describe_series(where: str, options: Mapping[str, Any]) -> SeriesFilesRow:
    """The row for series that are written as `where`; lengths are written out, so that a person sees them."""
    wanted = {"context": 96, "horizon": 24, "season": 1, **options}
    return SeriesFilesRow(source="series", path=where, modality="series", **wanted)


def is_text(place: Path) -> bool:
    """Whether a file or a folder holds text: files of its kinds, and neither pictures, Parquet nor their metadata."""
    if place.is_file():
        return suffix(place.name) in PLAIN | RECORDS
    names = list(text_files(place))
    pictures = {".parquet", *Image.registered_extensions()}
    if any(Path(name).suffix.lower() in pictures or Path(name).name == METADATA for name in names):
        return False
    return any(suffix(name) in PLAIN | RECORDS for name in names)


def describe_text(place: Path, where: str, options: Mapping[str, Any]) -> TextFilesRow:
    """The row for the text at `place`, written as `where`; the form is that of the first record, if there are some.

    Raises `UserError` for records that have none of the known fields.
    """
    names = (
        [""] if place.is_file() else [name for name in text_files(place) if suffix(name) in PLAIN | RECORDS]
    )
    files = [place / name for name in names]
    kinds = {suffix(file.name) for file in files}
    form: Form = "code" if kinds == {".py"} else "text"
    records = [file for file in files if suffix(file.name) in RECORDS]
    if records:
        form = _form(records[0], _first(records[0]))
    unit = {}
    if not records and len(files) == 1 and files[0].stat().st_size >= SINGLE and "unit" not in options:
        unit = {"unit": "whole"}
    return TextFilesRow(source="text", path=where, modality="text", form=form, **unit, **options)


def describe_pictures(place: Path, where: str, options: Mapping[str, Any]) -> FolderRow | ParquetRow:
    """The row for the pictures at `place`, written as `where`: Parquet if there is some, else a folder.

    Captions and pairs are recognised. Raises `UserError` for options that only Parquet has.
    """
    wanted = {
        "size": (32, 32),
        "channels": 3,
        "fit": "crop",
        **options,
    }  # written out: a person sees what to change
    tables = parquet_files(place) if place.is_dir() or place.suffix == ".parquet" else []
    if tables:
        return ParquetRow(
            source="parquet", path=where, **{**_captioned(texts(first_sight(tables[0]))), **wanted}
        )
    columns = sorted({"image", "label"} & options.keys())
    if columns:
        raise UserError(
            f"{place} holds no Parquet file; leave out {' and '.join(f'--{name}' for name in columns)}."
        )
    if not place.is_dir():
        return FolderRow(source="folder", path=where, **wanted)
    files = Folder(place).files
    if is_paired([file for file in files if Path(file).name != METADATA]):
        return FolderRow(source="folder", path=where, form="pairs", **wanted)
    tables = [place / file for file in files if Path(file).name == METADATA]
    record = _first(tables[0]) if tables else None
    found = (
        [key for key, value in record.items() if isinstance(value, str)] if isinstance(record, dict) else []
    )
    return FolderRow(source="folder", path=where, **{**_captioned(found), **wanted})


def _captioned(names: Sequence[str]) -> dict[str, str]:
    """The field `caption` of a row, if one of these columns is called as captions are."""
    found = [name for name in CAPTIONS if name in names]
    return {"caption": found[0]} if found else {}


def _form(file: Path, record: Any) -> Form:
    fields = set(record) if isinstance(record, dict) else set()
    if "messages" in fields:
        return "chat"
    if {"source", "target"} <= fields:
        return "pairs"
    if "text" in fields:
        return "text"
    found = ", ".join(sorted(map(legible, map(str, fields)))) or "none"
    raise UserError(
        f"The records of {file} have no “text”, “messages”, or “source” and “target” (their fields: {found}); "
        "write a row into params.yaml that names them under “fields” or in a “template”, as docs/data.md shows."
    )


def _first(file: Path) -> Any:
    """The first record of a file."""
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if packed else file.open("rb") as stream:
            if suffix(file.name) == ".json":
                content = json.load(stream)
                return content[0] if isinstance(content, list) and content else None
            line = next((line for line in stream if line.strip()), b"null")
            return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}, line 1 is not valid JSON ({error}); mend or remove it.") from error


def describe_molecules(where: str, options: Mapping[str, Any]) -> MoleculeFilesRow:
    """The row for molecules whose path is written as `where`."""
    return MoleculeFilesRow(source="molecules", path=where, **options)
