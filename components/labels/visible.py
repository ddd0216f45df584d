"""A mark that people see: a caption in a strip beneath a picture, whose own pixels stay as they are."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

WORDS = ("AI-generated: {name}", "AI-generated", "AI")
"""What a caption says, the first that is not wider than the picture."""
SHARE = 0.05
"""The least height of letters, as a part of the picture's shorter side (GB 45438-2025, 4.2)."""
EDGE = 2
"""Pixels around the letters, at their own size."""


def captioned(file: bytes, name: str) -> bytes:
    """The PNG `file` on a canvas with a caption beneath; a picture narrower than two letters gets a wider canvas."""
    picture = Image.open(io.BytesIO(file))
    strip = _caption(name, picture.width, min(picture.size))
    canvas = Image.new(
        picture.mode, (max(picture.width, strip.width), picture.height + strip.height), "white"
    )
    canvas.paste(picture, (0, 0))
    canvas.paste(strip.convert(picture.mode), (0, picture.height))
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def _caption(name: str, width: int, side: int) -> Image.Image:
    """Black letters on white, as large as the words that fit allow, and no smaller than `SHARE` of `side` needs."""
    font = ImageFont.load_default_imagefont()
    sizes = [(words.format(name=name), font.getbbox(words.format(name=name))) for words in WORDS]
    factor = max(1, -(-int(SHARE * side) // int(sizes[0][1][3])))
    words, box = next((one for one in sizes if (one[1][2] + 2 * EDGE) * factor <= width), sizes[-1])
    strip = Image.new("L", (int(box[2]) + 2 * EDGE, int(box[3]) + EDGE), 255)
    ImageDraw.Draw(strip).text((EDGE, 0), words, fill=0, font=font)
    return strip.resize((strip.width * factor, strip.height * factor), Image.Resampling.NEAREST)
