"""The documents of a split as tokens on disk, and as rows: which tokens stand in which row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import Split
from components.data.documents import Library, texts_of
from components.data.packing import Window, held_out_windows, pack, training_windows
from components.data.spool import FILE_BYTES, GROUP_BYTES, GROUP_ROWS, parts
from components.families.family import END
from components.modalities.tokenizer import UNKNOWN, TextTokenizer
from components.rows import Form

Tokens = np.ndarray[Any, np.dtype[np.int32]]
PIECE = 2**20
"""Bytes of text that are encoded at once."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The tokens [first, last) of a document or of one whole text; those of its source begin at `source`."""

    key: str
    source: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class RowPlan:
    """A row: the spans of tokens that it joins, how many of the last are fresh, the span of its source."""

    key: str
    spans: tuple[tuple[int, int], ...]
    fresh: int
    source: tuple[int, int] | None = None

    def __len__(self) -> int:
        return sum(last - first for first, last in self.spans)


@dataclass
class Encoded:
    """A split as tokens: its sequences in one flat file, and what was counted on the way.

    `characters` counts the text that is predicted (of a pair, the target); `truncated` the sources that were cut,
    `left_out` the pairs whose target is too long.
    """

    path: Path
    sequences: list[Tokenized] = field(default_factory=list)
    documents: int = 0
    characters: int = 0
    unknown: int = 0
    truncated: int = 0
    left_out: list[str] = field(default_factory=list)
    size: int = 0

    def tokens(self) -> Tokens:
        """All tokens of the file, mapped into memory."""
        return np.memmap(self.path, np.int32, "r") if self.size else np.zeros(0, np.int32)

    @property
    def predicted(self) -> int:
        """How many tokens are predicted: all but the first of each sequence."""
        return sum(len(sequence) - 1 for sequence in self.sequences)


@dataclass(frozen=True)
class Encoder:
    """How contents become sequences of tokens in rows of `width`; of pairs, with sources of `source`."""

    tokenizer: TextTokenizer
    form: Form
    width: int
    source: int
    whole: bool

    def encode(
        self, library: Library, keys: Sequence[str], split: Split, path: Path, tell: Callable[[int], None]
    ) -> Encoded:
        """Write the tokens of `keys` to `path`; of one whole text only that of training begins with END."""
        found = Encoded(path)
        with path.open("wb") as stream:
            if self.whole and split == "train":
                found.size += _write(stream, [END])
            for some in _pieces(library, keys):
                for key, tokens, source, characters in self._encoded(library, some):
                    self._add(found, stream, key, tokens, source, characters)
                tell(len(some))
        if self.whole and keys:
            found.documents, found.sequences = 1, [Tokenized(keys[0], 0, 0, found.size)]
        return found

    def _encoded(
        self, library: Library, keys: Sequence[str]
    ) -> Iterator[tuple[str, list[int], list[int], int]]:
        """Each key with the tokens of its text and of its source, and the characters of its text."""
        contents = [library.content(key) for key in keys]
        if self.form == "chat":
            for key, content in zip(keys, contents, strict=True):
                assert not isinstance(content, str)
                turns = [{"role": role, "content": text} for role, text in content]
                tokens = self.tokenizer.chat(turns, answer=False)[1:]
                yield key, tokens, [], sum(map(len, texts_of(content)))
            return
        texts = [texts_of(content) for content in contents]
        targets = self.tokenizer.encode_all([text[-1] for text in texts])
        pairs = self.form == "pairs"
        sources = self.tokenizer.encode_all([text[0] for text in texts]) if pairs else [[]] * len(texts)
        for key, text, target, source in zip(keys, texts, targets, sources, strict=True):
            yield key, target, source, len(text[-1])

    def _add(
        self, found: Encoded, stream: Any, key: str, tokens: list[int], source: list[int], characters: int
    ) -> None:
        if self.form == "pairs" and len(tokens) > self.width - 2:
            found.left_out.append(key)
            return
        found.truncated += len(source) > self.source
        source = source[: self.source]
        unknown = self.tokenizer.core.token_to_id(UNKNOWN)
        found.unknown += 0 if unknown is None else tokens.count(unknown)
        found.characters += characters
        if self.whole:
            found.size += _write(stream, tokens)
            return
        first = found.size + len(source)
        found.size += _write(stream, [*source, END, *tokens, END])
        found.sequences.append(Tokenized(key, first - len(source), first, found.size))
        found.documents += 1

    def rows(self, found: Encoded, split: Split) -> list[RowPlan]:
        """The rows of a split; those of documents sorted by content, those of one whole text in order."""
        windows = training_windows if split == "train" else held_out_windows
        if self.form == "pairs":
            return [_pair(sequence) for sequence in found.sequences]
        short = [sequence for sequence in found.sequences if len(sequence) <= self.width and not self.whole]
        rows = [
            packed([short[place] for place in places])
            for places in pack([len(sequence) - 2 for sequence in short], self.width)
        ]
        for sequence in found.sequences:
            if self.whole or len(sequence) > self.width:
                rows += [cut(sequence, window) for window in windows(len(sequence), self.width)]
        return rows if self.whole else sorted(rows, key=lambda row: row.key)


def _pieces(library: Library, keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys in pieces of about `PIECE` bytes of text."""
    piece: list[str] = []
    size = 0
    for key in keys:
        piece.append(key)
        size += library.size(key)
        if size >= PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _write(stream: Any, tokens: Sequence[int]) -> int:
    stream.write(np.asarray(tokens, "<i4").tobytes())
    return len(tokens)


def _pair(sequence: Tokenized) -> RowPlan:
    span = (sequence.first, sequence.last)
    return RowPlan(sequence.key, (span,), len(sequence) - 1, (sequence.source, sequence.first))


def packed(sequences: Sequence[Tokenized]) -> RowPlan:
    """One row `END d1 END d2 END`; each document after the first shares the END before it."""
    first, *rest = sequences
    spans = ((first.first, first.last), *((sequence.first + 1, sequence.last) for sequence in rest))
    key = first.key if not rest else _hash("".join(sequence.key for sequence in sequences))
    return RowPlan(key, spans, sum(len(sequence) - 1 for sequence in sequences))


def cut(sequence: Tokenized, window: Window) -> RowPlan:
    """One row, a window of a long document."""
    key = _hash(f"{sequence.key}:{window.first}")
    span = (sequence.first + window.first, sequence.first + window.last)
    return RowPlan(key, (span,), window.fresh)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_rows(
    folder: Path,
    rows: Sequence[RowPlan],
    tokens: Tokens,
    schema: pa.Schema,
    longest: int,
    more: Callable[[Sequence[RowPlan]], list[pa.Array]] = lambda _: [],
) -> Iterator[tuple[Path, int]]:
    """Write rows of at most `longest` tokens to `folder`/00000.parquet and on; yields each file and its rows.

    `more` makes the columns that `schema` has behind those of text.
    """
    folder.mkdir(parents=True)
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // (4 * longest)))
    file = max(1, FILE_BYTES // (4 * group * longest)) * group
    for count, part in enumerate(parts(rows, file)):
        path = folder / f"{count:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
            for some in parts(part, group):
                writer.write_table(_table(some, tokens, schema, more(some)), row_group_size=group)
        yield path, len(part)


def _table(rows: Sequence[RowPlan], tokens: Tokens, schema: pa.Schema, more: Sequence[pa.Array]) -> pa.Table:
    columns: list[Any] = [
        pa.array([row.key for row in rows], pa.string()),
        pa.array([b"".join(tokens[slice(*span)].tobytes() for span in row.spans) for row in rows]),
        pa.array([len(row) for row in rows], pa.int32()),
        pa.array([row.fresh for row in rows], pa.int32()),
    ]
    if "source" in schema.names:
        columns.append(pa.array([tokens[slice(*row.source)].tobytes() for row in rows if row.source]))
    return pa.Table.from_arrays([*columns, *more], schema=schema)
