"""The texts of a prepared split: rows of tokens joined to documents again, and documents as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
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


def columns_of(dataset: Dataset, split: Split, tokens: int | None = None) -> dict[str, Tensor]:
    """The columns of a whole split, in the order on disk, as `Text.columns` gives them.

    With `tokens`, of as many row groups, drawn by a fixed seed, as hold about so many; the others are not read.
    """
    files = [pq.ParquetFile(path) for path in dataset.paths(split)]
    groups = [(file, index) for file in files for index in range(file.num_row_groups)]
    share = 1.0 if tokens is None else tokens / max(1, int(dataset.details["tokens"][split]))
    if share < 1.0:
        left = share * dataset.rows(split)
        drawn = []
        for place in torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).tolist():
            drawn.append(place)
            file, index = groups[place]
            left -= file.metadata.row_group(index).num_rows
            if left <= 0:
                break
        groups = [groups[place] for place in sorted(drawn)]
    return dataset.tensors.columns(pa.concat_tables([file.read_row_group(index) for file, index in groups]))


def documents(columns: dict[str, Tensor], train: bool) -> list[Document]:
    """The documents of a split; windows of long ones, which lie on disk in any order, are joined where they overlap.

    A training row that is longer than the width T goes on in a row that begins with its tokens from T on; a
    held-out row begins with the last tokens of the row that it continues. Rows without such a partner stay alone.
    """
    sizes = columns["length"].tolist()
    rows = [row[:size] for row, size in zip(columns["tokens"].numpy(), sizes, strict=True)]
    width = int(columns["width"][0])
    context = (columns["length"] - columns["fresh"]).tolist()
    follower = _training_followers(rows, width) if train else _held_out_followers(rows, context)
    streams = []
    for chain in _chains(len(rows), follower):
        if train:
            parts = [*(rows[place][:width] for place in chain[:-1]), rows[chain[-1]]]
        else:
            parts = [rows[chain[0]], *(rows[place][context[place] :] for place in chain[1:])]
        streams.append(np.concatenate(parts).astype(np.int64))
    return [document for stream in streams for document in _split(stream)]


def _training_followers(rows: Sequence[Tokens], width: int) -> dict[int, int]:
    """Which row goes on in which: the last width − 1 tokens of one are the first of the other."""
    known = _places((place, row[: width - 1]) for place, row in enumerate(rows) if len(row) >= width)
    asking = ((place, row[width:]) for place, row in enumerate(rows) if len(row) == 2 * width - 1)
    return dict(_paired(asking, known))


def _held_out_followers(rows: Sequence[Tokens], context: Sequence[int]) -> dict[int, int]:
    """Which row goes on in which: the context of one is the end of the other."""
    found: dict[int, int] = {}
    for size in {size for size in context if size > 1}:
        known = _places((place, row[-size:]) for place, row in enumerate(rows) if place not in found)
        asking = ((place, row[:size]) for place, row in enumerate(rows) if context[place] == size)
        found |= {before: after for after, before in _paired(asking, known, -1)}
    return found


def _places(keys: Iterable[tuple[int, Tokens]]) -> dict[bytes, list[int]]:
    """Where each run of tokens stands."""
    found: dict[bytes, list[int]] = {}
    for place, tokens in keys:
        found.setdefault(tokens.tobytes(), []).append(place)
    return found


def _paired(
    asking: Iterable[tuple[int, Tokens]], known: dict[bytes, list[int]], next_to: int = 1
) -> Iterator[tuple[int, int]]:
    """Each asking row with a row of the same tokens, its neighbour on disk if that is one; none is given twice."""
    for place, tokens in asking:
        places = known.get(tokens.tobytes(), [])
        others = [other for other in places if other != place]
        if others:
            chosen = place + next_to if place + next_to in others else others[0]
            places.remove(chosen)
            yield place, chosen


def _chains(rows: int, follower: Mapping[int, int]) -> Iterator[list[int]]:
    """All rows in the order in which each goes on in its follower; a circle is cut anywhere."""
    seen: set[int] = set()
    followed = set(follower.values())
    for first in [*(row for row in range(rows) if row not in followed), *range(rows)]:
        chain: list[int] = []
        place: int | None = first
        while place is not None and place not in seen:
            seen.add(place)
            chain.append(place)
            place = follower.get(place)
        if chain:
            yield chain


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
