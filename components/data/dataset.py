"""Prepared data: a folder of Parquet splits with a manifest, opened, checked, and read as batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as arrow
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.errors import FailedError, UserError
from components.families.family import Batch, Shape, Task
from components.families.sampling import mix
from components.modalities.modality import DRAW, Modality, modality_of

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
WINDOW = 256 * 2**20
"""Bytes of decoded rows that are held and shuffled together; a dataset below that is read once."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. `revision` is the hash of its content; `files` maps paths to their facts.

    `details` is what only its modality asks for.
    """

    folder: Path
    name: str
    modality: str
    revision: str
    shape: Shape
    classes: tuple[str, ...]
    licence: str
    source: str
    files: Mapping[str, Mapping[str, Any]]
    details: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Modality:
        """The modality that reads these rows, with its assets."""
        return modality_of(self.modality, self.folder)

    def paths(self, split: Split) -> list[Path]:
        """The Parquet files of a split, in order."""
        return [self.folder / name for name in sorted(self.files) if name.startswith(f"{split}/")]

    def rows(self, split: Split) -> int:
        """How many rows a split has."""
        return sum(int(self.files[name]["rows"]) for name in self.files if name.startswith(f"{split}/"))

    def whole(self, split: Split, limit: int | None = None) -> Batch:
        """All rows of a split (or the first `limit`), in the order on disk; `UserError` if there are none."""
        return self.tensors.batch(self.columns(split, limit))

    def columns(self, split: Split, limit: int | None = None) -> dict[str, Tensor]:
        """The same rows as the modality holds them in memory, with what a batch leaves out; raises `UserError`."""
        if not self.paths(split):
            raise UserError(
                f"The dataset “{self.name}” has no {split} split; give it a share under “split” in params.yaml."
            )
        table = self.table(split)
        return self.tensors.columns(table.to_table() if limit is None else table.head(limit))

    def table(self, split: Split) -> arrow.Dataset:
        """The files of a split as one table, of which only what is asked for is read."""
        return arrow.dataset([str(path) for path in self.paths(split)])


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_dataset(folder: Path, task: Task | None = None) -> Dataset:
    """Open the prepared dataset in `folder` and check every file's hash; raises `UserError`.

    With a `task` its shape holds only the conditions that a request of that task carries.
    """
    manifest = folder / "dataset.json"
    if not manifest.is_file():
        raise UserError(
            f"The dataset “{folder.name}” is not prepared (no {manifest}); "
            f"type genloom data prepare {folder.name}."
        )
    with whole(manifest):
        content = json.loads(manifest.read_text(encoding="utf-8"))
        found = Dataset(
            folder=folder,
            name=content["name"],
            modality=content["modality"],
            revision=content["revision"],
            shape=_shape(content) if task is None else _shape(content).narrowed(task),
            classes=tuple(content["classes"]),
            licence=content["licence"],
            source=content["source"],
            files=content["files"],
            details=content.get("details", {}),
        )
        hashes = {name: facts["sha256"] for name, facts in found.files.items() if int(facts["rows"]) >= 0}
        hashes |= dict(content.get("assets", {}))
    for name, sha256 in hashes.items():
        path = folder / name
        if not path.is_file() or file_hash(path) != sha256:
            raise UserError(
                f"The prepared file {path} is missing or was altered; "
                f"type genloom data prepare {folder.name} --force."
            )
    return found


@contextmanager
def unreplaced(dataset: Dataset) -> Iterator[None]:
    """Raise `FailedError` at the end of the block if the files that it read were replaced meanwhile.

    They may then have been of two revisions; so it also takes the place of errors that come from missing files.
    """
    try:
        yield
    except (OSError, pa.ArrowException):
        check_same(dataset)
        raise
    check_same(dataset)


def check_same(dataset: Dataset) -> None:
    """Raise `FailedError` if other data have been prepared in the folder since `dataset` was opened."""
    if not is_same(dataset):
        raise FailedError(
            f"The dataset “{dataset.name}” was prepared anew while it was read; repeat the command, which then "
            "takes what it is now."
        )


def is_same(dataset: Dataset) -> bool:
    """Whether the folder still holds the revision that was opened; False while it is being replaced."""
    try:
        found = json.loads((dataset.folder / "dataset.json").read_text(encoding="utf-8"))["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(found == dataset.revision)


def _shape(content: Mapping[str, Any]) -> Shape:
    """The shape that a manifest states; `vocabulary`, `prompt` and `source` only where the rows have them."""
    prompt, source = content.get("prompt"), content.get("source_shape")
    return Shape(
        data=tuple(content["shape"]),
        vocabulary=int(content.get("vocabulary", 0)),
        classes=len(content["classes"]),
        prompt=(int(prompt[0]), int(prompt[1])) if prompt else None,
        source=tuple(source) if source else None,
    )


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn what goes wrong over a damaged JSON file of prepared data into a `UserError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The prepared file {path} is damaged; type genloom data prepare {path.parent.name} --force."
        ) from error


@dataclass(frozen=True)
class Position:
    """Where in the endless stream of shuffled epochs a reader is: how many rows were handed out, of all ranks."""

    rows: int = 0


class Batches:
    """The endless stream of a split's rows in batches: shuffled by `seed`, the same for every world size.

    Row groups are visited in a new order each epoch and shuffled inside windows of at most `WINDOW` bytes;
    global batch b holds the rows [b·batch, (b+1)·batch) of that stream, and rank r of w takes every w-th. An
    epoch's end falls inside a batch, so no row is left out. `position` is all that resuming needs. If `plain`, rows
    of training are seen as held-out ones are, and nothing is drawn for them.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        plain: bool = False,
    ) -> None:
        self.modality = dataset.tensors
        self.draws = self.modality.random and split == "train" and not plain
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self.total = dataset.rows(split)
        if self.total == 0:
            raise UserError(f"The {split} split of the dataset “{dataset.name}” is empty; add data.")
        self._files = [pq.ParquetFile(path, memory_map=True) for path in dataset.paths(split)]
        self._groups = _row_groups(self._files, self.modality)
        self._fits = sum(group.bytes for group in self._groups) <= WINDOW
        self._kept: dict[str, Tensor] | None = None

    def from_position(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Batches of this rank's share from `position` on, each with the position that follows it."""
        at = position.rows
        pieces: list[dict[str, Tensor]] = []
        held = 0
        for window in self._windows(at):
            size = len(next(iter(window.values())))
            first = 0
            while held + size - first >= self.batch:
                take = self.batch - held
                pieces.append({name: column[first : first + take] for name, column in window.items()})
                at += self.batch
                first += take
                yield self._share(pieces), Position(at)
                pieces, held = [], 0
            if first < size:
                pieces.append({name: column[first:] for name, column in window.items()})
                held += size - first

    def _share(self, pieces: list[dict[str, Tensor]]) -> Batch:
        mine = slice(self.rank, None, self.world)
        if len(pieces) == 1:
            return self.modality.batch({name: column[mine] for name, column in pieces[0].items()})
        names = pieces[0]
        return self.modality.batch(
            {name: torch.cat([piece[name] for piece in pieces])[mine] for name in names}
        )

    def _windows(self, start: int) -> Iterator[dict[str, Tensor]]:
        """The stream from row `start` on, as shuffled windows."""
        epoch, skip = divmod(start, self.total)
        while True:
            for number, groups in enumerate(self._plan(epoch)):
                rows = sum(group.rows for group in groups)
                if skip >= rows:
                    skip -= rows
                    continue
                columns = self._read(groups)
                generator = _generator(self.seed, epoch, number + 1)
                order = torch.randperm(rows, generator=generator)[skip:]
                skip = 0
                if self.draws:
                    columns = columns | {DRAW: torch.randint(2**62, (rows,), generator=generator)}
                # indexing chunk by chunk keeps the first batch from waiting for a whole window's shuffle
                for chunk in torch.split(order, max(self.batch, 8192)):
                    yield {name: column[chunk] for name, column in columns.items()}
            epoch += 1

    def _plan(self, epoch: int) -> list[list[_Group]]:
        """The row groups of an epoch in its order, cut into windows."""
        order = torch.randperm(len(self._groups), generator=_generator(self.seed, epoch, 0)).tolist()
        if self._fits:
            return [list(self._groups)]
        windows: list[list[_Group]] = [[]]
        size = 0
        for index in order:
            group = self._groups[index]
            if windows[-1] and size + group.bytes > WINDOW:
                windows.append([])
                size = 0
            windows[-1].append(group)
            size += group.bytes
        return windows

    def _read(self, groups: list[_Group]) -> dict[str, Tensor]:
        if self._fits and self._kept is not None:
            return self._kept
        parts = [self._files[group.file].read_row_group(group.index) for group in groups]
        columns = self.modality.columns(pa.concat_tables(parts))
        if self._fits:
            self._kept = columns
        return columns


@dataclass(frozen=True)
class _Group:
    file: int
    index: int
    rows: int
    bytes: int


def _row_groups(files: list[pq.ParquetFile], modality: Modality) -> tuple[_Group, ...]:
    groups = []
    for number, file in enumerate(files):
        row = modality.row_bytes(file.schema_arrow)
        for index in range(file.metadata.num_row_groups):
            facts = file.metadata.row_group(index)
            size = max(facts.total_byte_size, row * facts.num_rows)
            groups.append(_Group(number, index, facts.num_rows, size))
    return tuple(groups)


def _generator(seed: int, epoch: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(mix(seed, epoch), part))
