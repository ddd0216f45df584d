"""Trees of files: a folder, a tar or a zip; names in order, and what stands in each of them."""

from __future__ import annotations

import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from components.errors import UserError
from components.modalities.decoding import NotAPicture

Place = tuple[int, int] | str
"""Where a member of an archive is: where its bytes begin and how many they are, or its name there."""
BROKEN = (zipfile.BadZipFile, RuntimeError, zlib.error, lzma.LZMAError, EOFError)
"""What `zipfile` raises for a member that is damaged, encrypted, or packed in a way that it does not know."""


class Tree(ABC):
    """Files by relative path with slashes; hidden ones are not there. `where` is what people call it."""

    where: str

    @property
    @abstractmethod
    def files(self) -> list[str]:
        """The paths of all files, sorted."""

    @abstractmethod
    def content(self, file: str) -> Path | bytes:
        """A file's content, or where it stands on disk; raises `NotAPicture` if it cannot be unpacked."""

    def lines(self, file: str) -> list[bytes]:
        """The lines of a file; raises `UserError` if it cannot be unpacked."""
        try:
            found = self.content(file)
        except NotAPicture as reason:
            raise UserError(
                f"{self.place(file)} cannot be read ({reason}); pack the archive again."
            ) from reason
        return (found.read_bytes() if isinstance(found, Path) else found).splitlines()

    def place(self, file: str) -> str:
        """What people call a file of this tree."""
        return f"{self.where}/{file}"


class Folder(Tree):
    """A folder on disk; raises `UserError` if it is none. A link to a folder stands for itself."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"{root} is no folder; give the folder that holds the files.")
        self.root, self.where = root, str(root)

    @cached_property
    def files(self) -> list[str]:
        """The paths of all files, folder by folder."""
        return list(self._walk())

    def _walk(self) -> Iterator[str]:
        for folder, names, files in os.walk(self.root):
            names[:] = sorted(name for name in names if not name.startswith("."))
            links = [name for name in names if (Path(folder) / name).is_symlink()]
            for name in sorted([*files, *links]):
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def content(self, file: str) -> Path:
        """Where the file stands."""
        return self.root / file


class Archive(Tree):
    """A tar (unpacked from gzip) or a zip at `path`, read in place; `UserError` if it is neither.

    Folders that all files have in common are left out of the paths. Nothing is written, so no name in it can do harm.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        try:
            self._zip = zipfile.ZipFile(path) if zipfile.is_zipfile(path) else None
            self._members = self._from_tar() if self._zip is None else self._from_zip(self._zip)
            common = posixpath.commonpath([posixpath.dirname(name) for name in self._members] or [""])
        except (tarfile.TarError, zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{where} is no whole tar or zip file ({error}); correct its row.") from error
        self._start = f"{common}/" if common else ""

    def _from_tar(self) -> dict[str, Place]:
        """Where in the file each member stands, and how long it is."""
        with tarfile.open(self.path, "r:") as tar:
            return dict(
                _named((member.name, (member.offset_data, member.size)) for member in tar if member.isreg())
            )

    @staticmethod
    def _from_zip(archive: zipfile.ZipFile) -> dict[str, Place]:
        """What the zip calls each member."""
        return dict(
            _named((info.filename, info.filename) for info in archive.infolist() if not info.is_dir())
        )

    @cached_property
    def files(self) -> list[str]:
        """The paths of all files, sorted."""
        return sorted(name.removeprefix(self._start) for name in self._members)

    def content(self, file: str) -> bytes:
        """The bytes of a file; threads may ask at the same time. Raises `NotAPicture` if it cannot be unpacked."""
        place = self._members[self._start + file]
        if isinstance(place, str):
            assert self._zip is not None
            try:
                return self._zip.read(place)
            except BROKEN as error:
                raise NotAPicture("a member of the zip that cannot be unpacked") from error
        with self.path.open("rb") as stream:
            stream.seek(place[0])
            return stream.read(place[1])


def _named(found: Iterable[tuple[str, Place]]) -> Iterator[tuple[str, Place]]:
    """Members by clean paths, without hidden ones and what macOS adds."""
    for name, place in found:
        path = posixpath.normpath(name)
        if not any(part.startswith((".", "__MACOSX")) for part in path.split("/")):
            yield path, place
