"""Rows of tokens: packed without waste, cut so that every token is predicted once, or can be."""

from __future__ import annotations

import random

import pytest

from components.data.packing import held_out_windows, pack, training_windows


@pytest.mark.parametrize("width", [8, 33, 256])
def test_every_document_stands_in_one_row_that_holds_it(width: int) -> None:
    chance = random.Random(width)
    lengths = [chance.randint(1, width - 2) for _ in range(500)]
    rows = pack(lengths, width)
    assert sorted(place for row in rows for place in row) == list(range(500))
    sizes = [1 + sum(lengths[place] + 1 for place in row) for row in rows]
    assert max(sizes) <= width
    assert len(rows) <= -(-sum(length + 1 for length in lengths) // (width - 1)) * 11 / 9 + 1
    assert pack(lengths, width) == rows


def test_many_small_documents_leave_hardly_any_padding() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(3, 60) for _ in range(2000)]
    rows = pack(lengths, 128)
    assert len(rows) * 128 <= 1.02 * (len(rows) + sum(length + 1 for length in lengths))


def test_no_documents_no_rows() -> None:
    assert pack([], 16) == []


@pytest.mark.parametrize("width", [8, 9, 129])
@pytest.mark.parametrize("extra", [-3, 0, 1, 2, 31, 128, 129, 130, 1000])
def test_held_out_windows_predict_each_token_after_the_first_once(width: int, extra: int) -> None:
    length = width + extra
    predicted = []
    for window in held_out_windows(length, width):
        assert 0 <= window.first < window.last <= length
        assert window.last - window.first == min(width, length)
        assert window.fresh < window.last - window.first
        predicted += range(window.last - window.fresh, window.last)
    assert predicted == list(range(1, length))


@pytest.mark.parametrize("width", [8, 9, 129])
@pytest.mark.parametrize("extra", [-3, 0, 1, 2, 31, 128, 129, 130, 1000])
def test_each_crop_of_training_text_begins_in_just_one_window(width: int, extra: int) -> None:
    length = width + extra
    starts = []
    for window in training_windows(length, width):
        size = window.last - window.first
        assert size <= 2 * width - 1
        assert window.fresh == size - 1
        starts += range(window.first, window.first + max(1, size - width + 1))
    assert starts == list(range(max(1, length - width + 1)))
