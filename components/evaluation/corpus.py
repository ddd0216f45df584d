"""The texts of a prepared split: rows of tokens joined to documents again, and documents as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from components.data.dataset import Dataset, Split
from components.evaluation.text import Sampled
from components.families.family import END, NOTHING
from components.modalities.text import Text
from components.modalities.tokenizer import TextTokenizer

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Document:
    """The tokens of a document, or of a piece of one; `whole` says that it has its beginning and its end."""

    tokens: Tokens
    whole: bool


def text_of(dataset: Dataset) -> Text:
    """The modality of a dataset of text, with its tokenizer."""
    tensors = dataset.tensors
    assert isinstance(tensors, Text)
    return tensors


def columns_of(dataset: Dataset, split: Split) -> dict[str, Tensor]:
    """The columns of a whole split, in the order on disk, as `Text.columns` gives them."""
    table = pa.concat_tables([pq.read_table(path) for path in dataset.paths(split)])
    return dataset.tensors.columns(table)


def documents(columns: dict[str, Tensor], train: bool) -> list[Document]:
    """The documents of a split; windows that continue each other on disk are joined, and only these.

    A training row that is longer than the width T goes on in a row that begins with its tokens from T on; a
    held-out row begins with the last tokens of the row that it continues.
    """
    rows = [
        row[:size] for row, size in zip(columns["tokens"].numpy(), columns["length"].tolist(), strict=True)
    ]
    if train:
        streams = _tiles(rows, int(columns["width"][0]))
    else:
        streams = _slides(rows, (columns["length"] - columns["fresh"]).tolist())
    return [document for stream in streams for document in _split(stream)]


def _tiles(rows: Sequence[Tokens], width: int) -> list[Tokens]:
    """Training rows, joined where the next one begins with what stands behind `width`."""
    streams: list[list[Tokens]] = [[]]
    for row, after in zip(rows, [*rows[1:], np.zeros(0, dtype=np.int64)], strict=True):
        rest = row[width:]
        goes_on = len(rest) > 0 and np.array_equal(rest, after[: len(rest)])
        streams[-1].append(row[:width] if goes_on else row)
        if not goes_on:
            streams.append([])
    return [np.concatenate(parts) for parts in streams if parts]


def _slides(rows: Sequence[Tokens], context: Sequence[int]) -> list[Tokens]:
    """Held-out rows, joined where the first `context` tokens are the last of the row before."""
    streams: list[list[Tokens]] = []
    before = np.zeros(0, dtype=np.int64)
    for row, known in zip(rows, context, strict=True):
        if known > 0 and np.array_equal(before[-known:], row[:known]):
            streams[-1].append(row[known:])
        else:
            streams.append([row])
        before = row
    return [np.concatenate(parts) for parts in streams]


def _split(stream: Tokens) -> list[Document]:
    """The documents between the `END`s of a stream."""
    ends = np.flatnonzero(stream == END)
    bounds = [-1, *ends.tolist(), len(stream)]
    found = []
    for first, last in pairwise(bounds):
        if last > first + 1:
            found.append(Document(stream[first + 1 : last], first >= 0 and last < len(stream)))
    return found


def pieces(found: Sequence[Document], most: int, starts: bool) -> list[tuple[Tokens, bool]]:
    """Documents in pieces of at most `most` tokens, each with whether it was cut; only the first if `starts`."""
    parts = []
    for document in found:
        for first in range(0, 1 if starts else len(document.tokens), most):
            last = first + most
            cut = last < len(document.tokens) or not document.whole
            parts.append((document.tokens[first:last], cut))
    return parts


def read(tokenizer: TextTokenizer, rows: Sequence[Tokens]) -> list[str]:
    """The text of each row, without special tokens."""
    return list(tokenizer.core.decode_batch([row.tolist() for row in rows], skip_special_tokens=True))


def sampled(tokenizer: TextTokenizer, output: Tokens, most: int) -> list[Sampled]:
    """Rows [N, T] of sampled tokens as texts; one of `most` tokens was cut."""
    rows = [row[row != NOTHING] for row in output]
    texts = read(tokenizer, rows)
    return [Sampled(text, len(row) >= most) for text, row in zip(texts, rows, strict=True)]
