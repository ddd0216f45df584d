"""The modality text: rows of Parquet as batches, crops that cover every token, what a person sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.data.packing import training_windows
from components.families.family import NOTHING
from components.modalities.modality import DRAW, modality_of
from components.modalities.text import Text, schema
from components.modalities.tokenizer import train_tokenizer

WIDTH = 8


def table(
    rows: Sequence[Sequence[int]], fresh: Sequence[int], sources: Sequence[Sequence[int]] = ()
) -> pa.Table:
    """Rows as prepared data holds them."""
    about = {"shape": [WIDTH], "longest": max(map(len, rows)), "vocabulary": 99, "source_shape": [4]}
    columns = [
        [str(place) for place in range(len(rows))],
        [np.asarray(row, "<i4").tobytes() for row in rows],
        [len(row) for row in rows],
        list(fresh),
        *([[np.asarray(source, "<i4").tobytes() for source in sources]] if sources else []),
    ]
    arrow = schema(about, bool(sources))
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, arrow, strict=True)], schema=arrow
    )


@pytest.fixture
def text(tmp_path: Path) -> Text:
    """The modality with a tokenizer of bytes."""
    train_tokenizer("bytes", [], 0, chat=False).save(tmp_path)
    found = modality_of("text", tmp_path)
    assert isinstance(found, Text)
    return found


def test_held_out_rows_are_padded_and_say_what_is_given(text: Text) -> None:
    columns = text.columns(table([[0, 5, 6, 0], [7, 8, 9, 10, 11, 12, 13, 14]], [3, 2]))
    batch = text.batch(columns)
    assert batch.data.tolist() == [[0, 5, 6, 0, *[NOTHING] * 4], [7, 8, 9, 10, 11, 12, 13, 14]]
    assert batch.data.dtype == torch.int64
    assert batch.length is not None
    assert batch.length.tolist() == [4, 8]
    assert batch.given is not None
    assert batch.given.tolist() == [1, 6]
    assert batch.source is None


def test_pairs_have_a_source(text: Text) -> None:
    batch = text.batch(text.columns(table([[0, 5, 0], [0, 6, 0]], [2, 2], [[3], [1, 2, 3, 4]])))
    assert batch.source is not None
    assert batch.source.tolist() == [[3, NOTHING, NOTHING, NOTHING], [1, 2, 3, 4]]


@pytest.mark.parametrize("length", [5, 8, 9, 23, 40])
def test_crops_cover_every_token_and_every_start_alike(text: Text, length: int) -> None:
    tokens = list(range(1, length + 1))
    windows = list(training_windows(length, WIDTH))
    rows = table([tokens[window.first : window.last] for window in windows], [w.fresh for w in windows])
    columns = text.columns(rows)
    starts = []
    for draw in range(WIDTH):
        batch = text.batch(columns | {DRAW: torch.full((len(windows),), draw)})
        assert batch.length is not None
        assert batch.given is None
        assert batch.data.shape == (len(windows), WIDTH)
        for row, size in zip(batch.data.tolist(), batch.length.tolist(), strict=True):
            assert row[:size] == list(range(row[0], row[0] + size))
            assert row[size:] == [NOTHING] * (WIDTH - size)
            starts.append(row[0])
    assert set(starts) == set(range(1, max(1, length - WIDTH + 1) + 1))


def test_texts_and_their_picture(text: Text) -> None:
    rows = [text.tokenizer.encode("a 👋"), text.tokenizer.encode("床")]
    width = max(map(len, rows))
    output = torch.tensor([row + [NOTHING] * (width - len(row)) for row in rows])
    assert text.texts(output) == ["a 👋", "床"]
    assert text.encode(output, None)[1] == "床".encode()
    assert "── 1 ──\n床" in text.picture(output).decode()


def test_the_schema_says_what_a_reader_needs() -> None:
    about = json.loads(schema({"shape": [8], "longest": 15}, pairs=True).metadata[b"genloom"])
    assert about == {"modality": "text", "shape": [8], "longest": 15}
