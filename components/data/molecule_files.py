"""Molecules out of files: SMILES a line, a column of CSV or Parquet, the records of an SDF; packed by gzip or not."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from components.data.dataset import Split
from components.data.example import Dropped, Progress, legible
from components.data.fetch import fetch
from components.data.parquet import first_sight, may_hold_pictures, texts, whole_parquet
from components.data.sources import source_path
from components.data.texts import OFFICIAL_FILES, split_named, suffix, text_files, unpacked, whole
from components.errors import UserError, shortened, unknown
from components.modalities import chemistry
from components.molecule_rows import MoleculeFilesRow, MoleculeRow
from components.project import Project

PLAIN, PARQUET = ".txt", ".parquet"
LINES, TABLES = frozenset({".smi", ".smiles", ".ism", PLAIN}), frozenset({".csv", ".tsv", PARQUET})
RECORDS = frozenset({".sdf", ".sd"})
KINDS = LINES | TABLES | RECORDS
COLUMN = "smiles"
"""What the column of a table, or the first line of a file of SMILES, calls them, in any case."""
SEPARATORS = ",;\t|"
AT_ONCE = 4096
"""Rows of Parquet that are read together."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A molecule of a source before it is read: its name there, its SMILES, its official split, if it has one."""

    name: str
    smiles: str
    split: Split | None = None


@dataclass(frozen=True)
class MoleculeFile:
    """A file of molecules: where it lies, what it is called, and its official split, if it has one."""

    path: Path
    name: str
    split: Split | None = None


@dataclass
class MoleculeFiles:
    """The files of a row, in the order of their names; `ignored` fills with columns that are not used."""

    files: Sequence[MoleculeFile]
    smiles: str | None = None
    official: str | None = None
    others: Sequence[Dropped] = ()
    ignored: set[str] = field(default_factory=set)

    def structures(self, name: str, progress: Progress) -> Iterator[Structure | Dropped]:
        """The molecules of all files, and what is left out; tells `progress` how much was read."""
        yield from self.others
        total, done = sum(file.path.stat().st_size for file in self.files), 0
        for file in self.files:
            with file.path.open("rb") as raw, whole(file.name):
                for found in self._read(file, unpacked(raw)):
                    yield found
                    progress(f"{name} (bytes)", min(done + raw.tell(), total), total)
            done += file.path.stat().st_size
        progress(f"{name} (bytes)", total, total)

    def _read(self, file: MoleculeFile, stream: IO[bytes]) -> Iterator[Structure | Dropped]:
        kind = suffix(file.name)
        if kind in RECORDS:
            return _records(file, stream)
        if kind == PARQUET:
            return self._parquet(file, stream)
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        first = text.readline()
        columns = _columns(first, kind)
        if kind in TABLES or (kind == PLAIN and len(columns) > 1 and self.smiles in columns):
            return self._table(file, columns, csv.reader(text, delimiter=_separator(first, kind)))
        return _lines(file, chain([first], text), self.smiles)

    def _table(self, file: MoleculeFile, columns: Sequence[str], rows: Any) -> Iterator[Structure | Dropped]:
        """The `rows` of a table, as csv reads them; raises `UserError` for a column that is not there."""
        place, official = self._places(columns, file)
        try:
            for number, row in enumerate(rows, start=2):
                yield self._row(file, f"{file.name}:{number}", row, place, official)
        except csv.Error as error:
            raise UserError(
                f"{file.name}, line {rows.line_num + 1} is no row of a table ({error}); mend it."
            ) from error

    def _parquet(self, file: MoleculeFile, stream: IO[bytes]) -> Iterator[Structure | Dropped]:
        """The rows of a Parquet file, some at a time; raises `UserError` for a column that is not there."""
        with whole_parquet(file.name), pq.ParquetFile(stream) as table:
            names = table.schema_arrow.names
            columns = [names[place] for place in self._places(names, file) if place is not None]
            number = 0
            for batch in table.iter_batches(AT_ONCE, columns=columns):
                for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    cells = ["" if cell is None else str(cell) for cell in row]
                    yield self._row(file, f"{file.name}#{number}", cells, 0, 1 if len(cells) > 1 else None)
                    number += 1

    def _places(self, columns: Sequence[str], file: MoleculeFile) -> tuple[int, int | None]:
        """Where SMILES and official splits stand among `columns`; the others are not used."""
        place = column_of(columns, self.smiles, file.name)
        official = None if self.official is None else _known(columns, self.official, file.name)
        self.ignored |= {one for number, one in enumerate(columns) if number not in (place, official)}
        return place, official

    def _row(
        self, file: MoleculeFile, name: str, row: Sequence[str], place: int, official: int | None
    ) -> Structure | Dropped:
        if place >= len(row) or not row[place].strip():
            return Dropped(name, "no SMILES in its row")
        if official is None:
            return Structure(name, row[place].strip(), file.split)
        said = row[official].strip().lower() if official < len(row) else ""
        split = OFFICIAL_FILES.get(said)
        if split is None:
            return Dropped(name, "in no split that is train, val or test")
        return Structure(name, row[place].strip(), split)


def open_molecules(project: Project, row: MoleculeRow, progress: Progress) -> MoleculeFiles:
    """The files that `row` names; raises `UserError` if there are none, or they are of no kind that is read."""
    if not isinstance(row, MoleculeFilesRow):
        return MoleculeFiles([MoleculeFile(_bundled(), "first_5K.smi")])
    if row.path is None:
        files = [_fetched(project, part, row, progress) for part in row.files]
        return MoleculeFiles(
            sorted(files, key=lambda file: (file.split or "", file.name)), row.smiles, row.official
        )
    root = source_path(project, row.path)
    if root.is_file():
        return MoleculeFiles([_checked(MoleculeFile(root, legible(root.name)))], row.smiles, row.official)
    names = list(text_files(root))
    # a plain text beside files of molecules says something about them
    found = [name for name in names if suffix(name) in KINDS - {PLAIN}]
    found = found or [name for name in names if suffix(name) in KINDS]
    if not found:
        kinds = ", ".join(sorted(KINDS))
        raise UserError(
            f"The folder {root} holds no molecules ({kinds}, or such packed by gzip); put some there."
        )
    marks = {name: split_named(name) for name in found}
    official = "train" in marks.values() and None not in marks.values()
    files = [MoleculeFile(root / name, legible(name), marks[name] if official else None) for name in found]
    others = [Dropped(legible(name), "no file of molecules") for name in names if name not in marks]
    return MoleculeFiles(files, row.smiles, row.official, others)


def column_of(columns: Sequence[str], wanted: str | None, where: str) -> int:
    """The place of the column of SMILES; raises `UserError` if there is none."""
    if wanted is not None:
        return _known(columns, wanted, where)
    found = [place for place, name in enumerate(columns) if name.strip().lower() == COLUMN]
    if found:
        return found[0]
    names = ", ".join(map(legible, columns)) or "none"
    raise UserError(
        f"{where} has no column “{COLUMN}” (its columns: {shortened(names)}); name the one that holds SMILES under "
        "“smiles” of the dataset's row, or by --smiles."
    )


def header(path: Path) -> list[str]:
    """The first row of a table, whatever separates its columns; of Parquet, the columns of texts.

    Nothing if it cannot be read, and of Parquet that may hold pictures, about which its texts are.
    """
    if suffix(path.name) == PARQUET:
        schema = first_sight(path)
        return [] if may_hold_pictures(schema) else texts(schema)
    try:
        with path.open("rb") as raw:
            first = io.TextIOWrapper(unpacked(raw), "utf-8-sig", errors="replace").readline()
    except (OSError, EOFError, zlib.error):
        return []
    return _columns(first, suffix(path.name))


def _columns(first: str, kind: str) -> list[str]:
    """The names in the first line of a table."""
    try:
        return next(csv.reader([first], delimiter=_separator(first, kind)), [])
    except csv.Error:  # a line that is too long for one of names
        return []


def _known(columns: Sequence[str], wanted: str, where: str) -> int:
    if wanted not in columns:
        raise UserError(f"{where}: {unknown('column', wanted, columns)}")
    return list(columns).index(wanted)


def _separator(line: str, kind: str) -> str:
    """What stands between the columns: the most frequent of the usual ones."""
    return "\t" if kind == ".tsv" else max(SEPARATORS, key=line.count)


def _lines(file: MoleculeFile, text: Iterable[str], head: str | None) -> Iterator[Structure | Dropped]:
    """A SMILES a line, with anything behind white space; the first line may be a header, which may say `head`."""
    for number, line in enumerate(text, start=1):
        parts = line.split()
        if not parts or line.startswith("#"):
            continue
        if number == 1 and ((word := parts[0].strip(",")) == head or word.lower() == COLUMN):
            continue
        yield Structure(f"{file.name}:{number}", parts[0], file.split)


def _records(file: MoleculeFile, stream: IO[bytes]) -> Iterator[Structure | Dropped]:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        for number, molecule in enumerate(Chem.ForwardSDMolSupplier(stream), start=1):
            name = f"{file.name}#{number}"
            if molecule is None:
                yield Dropped(name, "a record that is no molecule")
            else:
                yield Structure(name, chemistry.written(molecule), file.split)


def _bundled() -> Path:
    """The file of SMILES of the NCI that RDKit brings along."""
    from rdkit import RDConfig

    return Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def _fetched(project: Project, part: Any, row: MoleculeFilesRow, progress: Progress) -> MoleculeFile:
    remote = row.files[part]
    name = remote.url.partition("?")[0].rpartition("/")[2]
    path = fetch(remote, project.settings, progress)
    return _checked(MoleculeFile(path, name, None if part == "all" else part))


def _checked(file: MoleculeFile) -> MoleculeFile:
    if suffix(file.name) not in KINDS:
        kinds = ", ".join(sorted(KINDS))
        raise UserError(f"{file.name} is no file of molecules ({kinds}); correct the dataset's row.")
    return file
