from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from components.evaluation.sheet import LETTERS, SPACE, sheet


def opened(data: torch.Tensor, names: list[str], heads: list[str]) -> Image.Image:
    return Image.open(io.BytesIO(sheet(data, names, heads)))


@pytest.mark.parametrize(("side", "times"), [(8, 1), (32, 2), (64, 1)])
def test_pictures_are_enlarged_until_the_words_above_them_have_room(side: int, times: int) -> None:
    data = torch.full((2, 3, 1, side, side), 1.0)
    bare = opened(data, [], [])
    page = opened(data, [], ["before", "after", "truth"])
    assert page.size == (bare.width * times, LETTERS + 2 * SPACE + bare.height * times)
    head = page.convert("L").crop((0, 0, page.width, LETTERS + 2 * SPACE))
    border = round(page.width / 3)
    assert head.crop((border - 1, 0, border + 1, head.height)).getextrema() == (255, 255), (
        "no word meets another"
    )
    assert head.getextrema()[0] < 128


def test_names_stand_left_of_their_rows() -> None:
    data = torch.zeros(2, 3, 3, 16, 16)
    assert opened(data, ["one", "a longer name"], []).width > opened(data, [], []).width + 2 * SPACE
