"""Pictures of every kind come out as the right uint8 levels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.images import read_picture
from components.modalities.decoding import NotAPicture, decoded


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def one_colour(data: bytes, channels: int = 3) -> tuple[int, ...]:
    picture = read_picture(data, (4, 4), channels, "stretch")
    assert picture.shape == (channels, 4, 4)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    first = picture[:, 0, 0]
    assert (picture == first[:, None, None]).all()
    return tuple(int(level) for level in first)


def palette() -> Image.Image:
    image = Image.new("P", (4, 4))
    image.putpalette([250, 20, 30] + [0] * 765)
    return image


def test_modes_keep_their_colour() -> None:
    assert one_colour(encoded(Image.new("RGB", (9, 5), (1, 2, 3)))) == (1, 2, 3)
    assert one_colour(encoded(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert one_colour(encoded(Image.new("1", (4, 4), 1))) == (255, 255, 255)
    assert one_colour(encoded(palette())) == (250, 20, 30)
    assert one_colour(encoded(Image.new("RGB", (4, 4), (0, 255, 0))), channels=1) == (150,)


def test_ink_becomes_light() -> None:
    red, green, blue = one_colour(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0))),
        encoded(Image.new("LA", (4, 4), (9, 0))),
        encoded(palette(), transparency=0),
        encoded(Image.new("RGB", (4, 4), (7, 7, 7)), transparency=(7, 7, 7)),
    ],
    ids=["RGBA", "LA", "palette", "colour key"],
)
def test_what_is_transparent_is_white(data: bytes) -> None:
    assert one_colour(data) == (255, 255, 255)


def test_half_transparent_black_is_grey() -> None:
    assert one_colour(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    for level, wanted in ((0, 0), (0x8080, 0x80), (65535, 255), (257 * 40, 40)):
        assert one_colour(encoded(Image.fromarray(np.full((4, 4), level, np.uint16)), kind), 1) == (wanted,)


def test_a_sixteen_bit_level_that_stands_for_nothing_is_white() -> None:
    image = Image.fromarray(np.full((4, 4), 300, np.uint16))
    assert one_colour(encoded(image, transparency=300), 1) == (255,)
    assert one_colour(encoded(image, transparency=301), 1) == (1,)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert one_colour(data) == (255, 0, 0)


def test_a_photo_taken_sideways_is_turned() -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: left becomes top
    picture = read_picture(encoded(image, "PNG", exif=exif), (8, 4), 1, "stretch")[0]
    assert picture[0].min() > 200
    assert picture[-1].max() < 55


def test_fits() -> None:
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (10, 0, 20, 10))  # the middle third
    data = encoded(image)
    assert read_picture(data, (10, 10), 1, "crop").min() == 255
    padded = read_picture(data, (30, 30), 1, "pad")[0]
    assert padded[:9].min() == padded[-9:].min() == 255
    assert padded[15, 0] == 0
    stretched = read_picture(data, (10, 10), 1, "stretch")[0]
    assert stretched[5, 0] == 0
    assert stretched[5, 5] == 255


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    data = encoded(Image.fromarray(levels))
    for fit in ("crop", "pad", "stretch"):
        assert (read_picture(data, (6, 5), 3, fit) == levels.transpose(2, 0, 1)).all()  # type: ignore[arg-type]


whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no picture in a format that can be read"),
        (b"hello", "no picture in a format that can be read"),
        (whole[: len(whole) // 2], "a broken picture: image file is truncated"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "colour mode F"),
        (encoded(Image.fromarray(np.full((4, 4), 2**20, np.int32)), "TIFF"), "more than 16 bits"),
    ],
    ids=["empty", "text", "truncated", "float", "32 bits"],
)
def test_what_is_no_picture_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(NotAPicture, match=reason):
        read_picture(data, (4, 4), 3, "crop")


def test_a_picture_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(NotAPicture, match="too many pixels"):
        read_picture(encoded(Image.new("L", (8, 8))), (4, 4), 1, "crop")


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAPicture, match="a broken picture: Is a directory"):
        read_picture(tmp_path, (4, 4), 1, "crop")


def test_the_middle_is_cut_at_its_own_scale_and_smaller_ones_are_left_out() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (9, 12), np.uint8)
    assert (read_picture(encoded(Image.fromarray(levels)), (5, 4), 1, "cut")[0] == levels[2:7, 4:8]).all()
    for size in ((10, 4), (4, 13)):
        with pytest.raises(NotAPicture, match="smaller than the size that is cut out of it"):
            read_picture(encoded(Image.fromarray(levels)), size, 1, "cut")


def test_a_clients_picture_keeps_its_own_size_and_is_read_by_the_same_rules() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (8, 4), (9, 9, 9, 0))
    found = decoded(encoded(clear, exif=exif), 3)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 8, 4)
    assert bool((found == 255).all())
    assert decoded(encoded(Image.new("CMYK", (5, 7)), "JPEG"), 1).shape == (1, 7, 5)
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    assert (decoded(encoded(Image.fromarray(levels)), 3).numpy() == levels.transpose(2, 0, 1)).all()


def test_a_clients_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("L", (64, 64)))
    assert decoded(data, 1, most=4096).shape == (1, 64, 64)
    with pytest.raises(NotAPicture, match=r"a picture of more than 4,095 pixels"):
        decoded(data[:60], 1, most=4095)  # only the header is looked at
    with pytest.raises(NotAPicture, match="a broken picture"):
        decoded(data[:60], 1)
