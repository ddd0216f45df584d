"""Marks in PNG (ISO/IEC 15948): tEXt for people, XMP as iTXt; put in after the header, without encoding anew."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from components.errors import UserError
from components.labels.statement import FIELD, Statement, Words, in_xmp, parsed

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = len(SIGNATURE) + 25
"""Bytes to the end of the header's chunk, which is the first."""
SMALL = 2**16
"""Bytes of a file that is looked at as one written without filters."""
MODES = {0: ("L", 1), 2: ("RGB", 3)}
"""Pillow's name and the channels of PNG's kinds of colour, where each has eight bits."""
PIXELS = 2**25
"""The most pixels of a picture that is decoded to be checked."""
XMP = "XML:com.adobe.xmp"


def put(file: bytes, words: Words) -> bytes:
    """`file` with the mark; its pixels stay as they are, byte for byte."""
    xmp = f"{XMP}\0\0\0\0\0{words.xmp}".encode()
    own = _text(FIELD.capitalize(), words.statement)
    constant = _constant(words.software, words.source, words.comment)
    return b"".join((file[:HEAD], constant, own, _chunk(b"iTXt", xmp), file[HEAD:]))


def found(file: bytes) -> Statement | None:
    """The statement in a picture that Pillow reads, PNG or another that kept the XMP; None where there is none."""
    info = _opened(file).info
    own, packet = info.get(FIELD.capitalize()), info.get(XMP) or info.get("xmp")
    statement = parsed(own) if isinstance(own, str) else None
    return statement or (in_xmp(packet) if isinstance(packet, str | bytes) else None)


def content(file: bytes) -> str:
    """The sha256 of the pixels, with their mode and size; raises `UserError` for a damaged or too large picture."""
    plain = _plain(file) if len(file) <= SMALL else None
    if plain is not None:
        return hashlib.sha256(plain).hexdigest()
    picture = _opened(file)
    if picture.width * picture.height > PIXELS:
        raise UserError(f"The picture has {picture.width}×{picture.height} pixels, too many to be checked.")
    try:
        pixels = picture.tobytes()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"The picture is damaged ({error}); give the whole file.") from error
    return hashlib.sha256(_about(picture.mode, picture.width, picture.height) + pixels).hexdigest()


def _about(mode: str, width: int, height: int) -> bytes:
    return b"picture %b %dx%d " % (mode.encode(), width, height)


def _plain(file: bytes) -> bytes | None:
    """What is hashed of a picture whose one IDAT follows its header and has no filters; None for any other.

    So are small pictures written when they are served, and Pillow takes ten times as long to read them.
    """
    if file[HEAD + 4 : HEAD + 8] != b"IDAT" or file[:8] != SIGNATURE:
        return None
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", file[16:29])
    (length,) = struct.unpack(">I", file[HEAD : HEAD + 4])
    if (
        depth != 8
        or kind not in MODES
        or interlaced
        or file[HEAD + 16 + length : HEAD + 20 + length] != b"IEND"
    ):
        return None
    mode, channels = MODES[kind]
    across = 1 + width * channels
    try:  # no more than a true one has, whatever it would swell to
        lines = zlib.decompressobj().decompress(file[HEAD + 8 : HEAD + 8 + length], across * height + 1)
    except (zlib.error, OverflowError):
        return None
    if len(lines) != across * height or any(lines[::across]):
        return None
    rows = np.frombuffer(lines, np.uint8).reshape(height, across)
    return _about(mode, width, height) + rows[:, 1:].tobytes()


def _opened(file: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(file))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("The picture is damaged or too large; give the whole file.") from error


@lru_cache(maxsize=64)
def _constant(software: str, source: str, comment: str) -> bytes:
    """What is the same in all pictures of a version."""
    return _text("Software", software) + _text("Source", source) + _text("Comment", comment)


def _text(name: str, value: str) -> bytes:
    """A tEXt chunk, which is Latin-1; what is not is written otherwise in the XMP."""
    return _chunk(b"tEXt", f"{name}\0{value}".encode("latin-1", "replace"))


def _chunk(kind: bytes, value: bytes) -> bytes:
    whole = kind + value
    return struct.pack(">I", len(value)) + whole + struct.pack(">I", zlib.crc32(whole))
