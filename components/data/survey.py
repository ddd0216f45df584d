"""What a person's data hold at first sight, counted before anything is written or prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.audio_rows import RecordingsRow
from components.data.documents import is_empty
from components.data.example import Dropped, NotARecording, Source, silent
from components.data.molecule_files import Structure, open_molecules
from components.data.recordings import open_recordings
from components.data.scores import open_pieces
from components.data.series import cuts_of, unfit
from components.data.sources import open_source
from components.data.tables import open_tables
from components.data.texts import open_texts
from components.errors import UserError
from components.modalities import chemistry
from components.modalities.decoding import NotAPicture
from components.modalities.tables import Table
from components.molecule_rows import MoleculeFilesRow
from components.music_rows import MidiRow
from components.project import Project
from components.rows import OwnRow, TextFilesRow
from components.series_rows import SeriesFilesRow


@dataclass(frozen=True)
class Survey:
    """What a source holds at first sight: entries of each class, what is left out and why, unused columns.

    Entries are not decoded, except the first ones, until one is a picture or a recording. `notes` are sentences on what
    a person should know beside.
    """

    entries: int
    classes: Mapping[str, int]
    dropped: Mapping[str, int]
    ignored: tuple[str, ...]
    notes: tuple[str, ...] = ()


def survey(project: Project, name: str, row: OwnRow) -> Survey:
    """Look at a source without preparing it; raises `UserError` if it holds nothing that can be read."""
    if isinstance(row, TextFilesRow):
        return survey_text(project, name, row)
    if isinstance(row, MidiRow):
        return survey_music(project, name, row)
    if isinstance(row, MoleculeFilesRow):
        return survey_molecules(project, name, row)
    if isinstance(row, RecordingsRow):
        return _survey_entries(open_recordings(project, row, silent, set()), row.path, "recording")
    if isinstance(row, SeriesFilesRow):
        return _survey_series(project, row)
    return _survey_entries(open_source(project, row, silent), row.path, "picture")


def _survey_series(project: Project, row: SeriesFilesRow) -> Survey:
    """Count the series of `row`; raises `UserError` if none is long enough for its windows."""
    dropped: Counter[str] = Counter()
    entries, ignored, longest, notes = 0, set[str](), 0, list[str]()
    for name, table in open_tables(project, row, silent):
        ignored |= set(table.ignored)
        longest = max(longest, len(table.values))
        notes += _gaps(name, table, row.fill)
        for column in table.values[: row.limit].T:
            reason = unfit(column, row)
            entries += reason is None
            dropped.update([] if reason is None else [reason])
    if not entries:
        molecules = ", or name the column of molecules by --smiles" if ignored else ""
        raise UserError(
            f"{row.path} holds no series that is long enough for windows of {row.context} + {row.horizon} steps "
            f"({_reasons(dropped)}; of {longest} steps {cuts_of(longest, row)[0]} would train); add data, or take a "
            f"smaller --context or --horizon{molecules}."
        )
    return Survey(entries, {}, dict(dropped.most_common()), tuple(sorted(ignored)), tuple(notes))


def _gaps(name: str, table: Table, fill: int) -> Iterator[str]:
    """What a person should know of the steps of a table."""
    if table.ordered:
        yield f"{name} was not in order of time, and is sorted."
    if table.missing:
        steps = f", among them {table.inserted} steps that were left out" if table.inserted else ""
        yield (
            f"{name} has {table.missing} missing values{steps}; gaps of at most {fill} are interpolated, windows that "
            "touch longer ones left out."
        )


def survey_text(project: Project, name: str, row: TextFilesRow) -> Survey:
    """Count the documents of `row`; raises `UserError` for a record that cannot be read, or if there is no text."""
    files = open_texts(project, row, silent)
    dropped: Counter[str] = Counter()
    entries = 0
    for found in files.documents(name, silent):
        if isinstance(found, Dropped):
            dropped[found.reason] += 1
        elif is_empty(found.content):
            dropped["empty"] += 1
        else:
            entries += 1
    if not entries:
        raise UserError(
            f"{row.path} holds no text that can be read ({_reasons(dropped) or 'no records'}); put text there."
        )
    return Survey(entries, {}, dict(dropped.most_common()), tuple(sorted(files.ignored)))


def survey_music(project: Project, name: str, row: MidiRow) -> Survey:
    """Read the pieces of `row`; raises `UserError` if there is none."""
    found = list(open_pieces(project, name, row, silent))
    dropped = Counter(piece.reason for piece in found if isinstance(piece, Dropped))
    if dropped.total() == len(found):
        raise UserError(
            f"{row.path} holds no piece that can be read ({_reasons(dropped)}); put MIDI files there."
        )
    return Survey(len(found) - dropped.total(), {}, dict(dropped.most_common()), ())


def survey_molecules(project: Project, name: str, row: MoleculeFilesRow) -> Survey:
    """Count the molecules of `row`, which are read until one is valid; raises `UserError` if none is."""
    chemistry.required()
    files = open_molecules(project, row, silent)
    dropped: Counter[str] = Counter()
    entries, proved = 0, False
    for found in files.structures(name, silent):
        valid = isinstance(found, Structure) and (proved or chemistry.read(found.smiles) is not None)
        proved, entries = proved or valid, entries + valid
        if not valid:
            dropped[found.reason if isinstance(found, Dropped) else "no valid molecule"] += 1
    if not proved:
        raise UserError(
            f"{row.path} holds no molecule that can be read ({_reasons(dropped) or 'no rows'}); "
            "put SMILES or SDF there."
        )
    return Survey(entries, {}, dict(dropped.most_common()), tuple(sorted(files.ignored)))


def _survey_entries(source: Source, path: str | None, noun: str) -> Survey:
    classes: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    entries, proved = 0, False
    for entry in source.entries:
        if isinstance(entry, Dropped):
            dropped[entry.reason] += 1
            continue
        try:
            if not proved:
                entry.load()
                proved = True
        except (NotAPicture, NotARecording) as reason:
            dropped[str(reason)] += 1
            continue
        entries += 1
        classes.update([entry.label] if entry.label is not None else [])
    if not proved:
        raise UserError(
            f"{path} holds no {noun} that can be read ({_reasons(dropped) or 'no rows'}); put {noun}s there."
        )
    return Survey(entries, dict(sorted(classes.items())), dict(dropped.most_common()), source.ignored)


def _reasons(dropped: Counter[str]) -> str:
    """Why most of what was left out was."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3))
