"""Documents out of files: plain text, JSON Lines and JSON arrays, packed by gzip or not."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from components.data.dataset import Split
from components.data.documents import Document
from components.data.example import OFFICIAL, Dropped, Progress, legible
from components.data.fetch import fetch
from components.data.records import contents, lines, used
from components.data.sources import source_path
from components.errors import UserError
from components.project import Project
from components.rows import TextFilesRow

PLAIN = frozenset({".txt", ".md", ".py"})
RECORDS = frozenset({".jsonl", ".json"})
OFFICIAL_FILES: dict[str, Split] = {**OFFICIAL, "dev": "val"}
ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|citation|changelog|dataset_?card)\b", re.IGNORECASE)
"""Files about a dataset, which are no part of it where its splits are official."""
SHARD = re.compile(r"([a-z]+)([-_]\d+(-of-\d+)?)?\.")
"""The name of a file that is a split, or a part of it."""
NOT_UTF8 = "no valid UTF-8"


@dataclass(frozen=True)
class TextFile:
    """A file of text: where it lies, what it is called, and its official split, if it has one."""

    path: Path
    name: str
    split: Split | None = None

    @property
    def kind(self) -> str:
        """The suffix that decides how it is read."""
        return suffix(self.name)


@dataclass
class TextFiles:
    """The files of a row, in the order of their names; `ignored` fills with fields that are not used."""

    row: TextFilesRow
    files: list[TextFile]
    others: list[Dropped]
    ignored: set[str] = field(default_factory=set)

    def documents(self, name: str, progress: Progress) -> Iterator[Document | Dropped]:
        """The documents of all files, and what is left out; tells `progress` how much was read."""
        yield from self.others
        total = sum(file.path.stat().st_size for file in self.files)
        done = 0
        for file in self.files:
            with file.path.open("rb") as raw, whole(file.name):
                for found in self._read(file, raw):
                    yield found
                    progress(f"{name} (bytes)", done + raw.tell(), total)
            done += file.path.stat().st_size
        progress(f"{name} (bytes)", total, total)

    def _read(self, file: TextFile, raw: IO[bytes]) -> Iterator[Document | Dropped]:
        stream = unpacked(raw)
        if file.kind in PLAIN:
            return self._plain(file, stream)
        return self._json_lines(file, stream) if file.kind == ".jsonl" else self._json(file, stream)

    def _plain(self, file: TextFile, stream: IO[bytes]) -> Iterator[Document | Dropped]:
        """The file as one document, or each of its lines."""
        try:
            text = lines(stream.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield Dropped(file.name, NOT_UTF8)
            return
        if self.row.unit != "line":
            yield Document(file.name, text, file.split)
            return
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            yield Document(f"{file.name}:{number}", line, file.split)

    def _json_lines(self, file: TextFile, stream: IO[bytes]) -> Iterator[Document | Dropped]:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield Dropped(f"{file.name}:{number}", NOT_UTF8)
                continue
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{file.name}, line {number} is not valid JSON ({error}); mend or remove the line."
                ) from error
            yield from self._record(file, record, number, f"{file.name}, line {number}")

    def _json(self, file: TextFile, stream: IO[bytes]) -> Iterator[Document | Dropped]:
        try:
            records = json.loads(stream.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield Dropped(file.name, NOT_UTF8)
            return
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.name} is not valid JSON ({error}); mend or remove it.") from error
        if not isinstance(records, list):
            raise UserError(
                f"{file.name} holds no array of records; write one, or a record a line as .jsonl."
            )
        for number, record in enumerate(records, start=1):
            yield from self._record(file, record, number, f"{file.name}, record {number}")

    def _record(self, file: TextFile, record: Any, number: int, where: str) -> Iterator[Document]:
        for place, content in enumerate(contents(record, self.row, where)):
            mark = f"#{place + 1}" if place else ""
            yield Document(f"{file.name}:{number}{mark}", content, file.split)
        self.ignored |= set(map(str, record)) - used(self.row)


def open_texts(project: Project, row: TextFilesRow, progress: Progress) -> TextFiles:
    """The files that `row` names; raises `UserError` if there are none, or they are of no kind that is read."""
    if row.path is None:
        files = []
        for part, remote in row.files.items():
            name = remote.url.partition("?")[0].rpartition("/")[2]
            path = fetch(remote, project.settings, progress)
            files.append(TextFile(path, name, None if part == "all" else part))
        _check(row, files, "files")
        return TextFiles(row, sorted(files, key=lambda file: (file.split or "", file.name)), [])
    root = source_path(project, row.path)
    if root.is_file():
        files = [TextFile(root, legible(root.name))]
        _check(row, files, "path")
        return TextFiles(row, files, [])
    files, others = _folder(root)
    _check(row, files, "path")
    return TextFiles(row, files, others)


def suffix(name: str) -> str:
    """The suffix that says how a file is read, small, without that of gzip."""
    return Path(name.lower().removesuffix(".gz")).suffix


def text_files(root: Path) -> Iterator[str]:
    """The files below `root` that are no hidden ones, by relative path, sorted."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith(".") and name != "__pycache__")
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _folder(root: Path) -> tuple[list[TextFile], list[Dropped]]:
    """The files of text in a folder with their official splits, and the others."""
    names = list(text_files(root))
    found = [name for name in names if suffix(name) in PLAIN | RECORDS]
    if not found:
        kinds = ", ".join(sorted(PLAIN | RECORDS))
        raise UserError(f"The folder {root} holds no text ({kinds}, or such packed by gzip); put some there.")
    marks = {name: split_named(name) for name in found}
    about = {name for name in found if marks[name] is None and ABOUT.match(Path(name).name)}
    named = {marks[name] for name in found if name not in about}
    official = "train" in named and None not in named
    aside = about if official else set()
    files = [
        TextFile(root / name, legible(name), marks[name] if official else None)
        for name in found
        if name not in aside
    ]
    others = [Dropped(legible(name), "no file of text") for name in names if name not in marks]
    others += [
        Dropped(legible(name), "beside the official splits, and in none of them") for name in sorted(aside)
    ]
    return files, others


def split_named(name: str) -> Split | None:
    """The official split that the top folder or the name of a file says, such as `train-00000-of-00002.jsonl`."""
    top, _, rest = name.partition("/")
    found = SHARD.match(top.lower())
    return OFFICIAL_FILES.get(top.lower() if rest or found is None else found[1])


def _check(row: TextFilesRow, files: list[TextFile], place: str) -> None:
    for file in files:
        if file.kind not in PLAIN | RECORDS:
            kinds = ", ".join(sorted(PLAIN | RECORDS))
            raise UserError(f"{file.name} is no file of text ({kinds}); correct the “{place}” of its row.")
        if file.kind in PLAIN and row.form in ("chat", "pairs"):
            raise UserError(
                f"{file.name} is plain text, and the form “{row.form}” needs records; use JSON Lines."
            )
        if file.kind in RECORDS and row.unit != "document":
            raise UserError(
                f"{file.name} holds records, each a document; leave out the unit “{row.unit}” of its row."
            )


def unpacked(raw: IO[bytes]) -> IO[bytes]:
    """A file at its beginning, read through gunzip if it begins as gzip does."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.open(raw) if packed else raw  # type: ignore[return-value]


@contextmanager
def whole(name: str) -> Iterator[None]:
    """Turn gzip's errors into one sentence."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} is no whole gzip file ({error}); copy it again or remove it.") from error
