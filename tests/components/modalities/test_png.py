"""The PNG that is written here, beside Pillow's: the same pixels, in the same kind of colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from components.modalities.drawing import SMALL, png


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (5, 17), (36, 36), (64, 64), (65, 64)])
def test_a_picture_of_any_size_reads_as_it_was(height: int, width: int, channels: int) -> None:
    picture = np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    file = png(picture, (width, height))
    with Image.open(io.BytesIO(file)) as found:
        found.load()
        assert (found.format, found.mode) == ("PNG", "L" if channels == 1 else "RGB")
        assert (np.asarray(found).reshape(picture.shape) == picture).all()


def test_a_small_picture_is_enlarged_and_read_by_strides() -> None:
    picture = np.arange(SMALL // 4, dtype=np.uint8).reshape(32, 32, 1)[::2, ::2]
    with Image.open(io.BytesIO(png(picture, (32, 32)))) as found:
        assert (np.asarray(found)[::2, ::2] == picture[:, :, 0]).all()
    with Image.open(io.BytesIO(png(picture, (16, 16)))) as found:
        assert (np.asarray(found) == picture[:, :, 0]).all()
