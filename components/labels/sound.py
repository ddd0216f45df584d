"""Marks in WAV, MP3, FLAC and Ogg Opus: each format's own tags, put beside the samples, which stay as they are."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import soundfile

from components.errors import UserError
from components.labels.statement import FIELD, SOURCE, Statement, Words, beginning, in_xmp, parsed

NAME = FIELD.upper()
SAMPLES = 2**25
"""The most samples of a recording that is decoded to be checked."""
VENDOR = b"Genloom"
DAMAGED = "The recording is damaged or not whole; give the whole file."


def lossless(file: bytes) -> str:
    """The sha256 of the samples as 32-bit levels, with their rate and channels. Raises `UserError`."""
    try:
        with soundfile.SoundFile(io.BytesIO(file)) as sound:
            if sound.frames * sound.channels > SAMPLES:
                raise UserError(f"The recording has {sound.frames} samples, too many to be checked.")
            about = b"sound %d Hz %d " % (sound.samplerate, sound.channels)
            levels = sound.read(dtype="int32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(DAMAGED) from error
    return hashlib.sha256(about + levels.astype("<i4").tobytes()).hexdigest()


def _chunks(file: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a RIFF file: name, and where the content begins and ends; a cut one ends with the file."""
    place = 12
    while place + 8 <= len(file):
        name, size = file[place : place + 4], int.from_bytes(file[place + 4 : place + 8], "little")
        yield name, place + 8, min(place + 8 + size, len(file))
        place += 8 + size + size % 2


def _riff(name: bytes, value: bytes) -> bytes:
    return name + struct.pack("<I", len(value)) + value + b"\0" * (len(value) % 2)


def put_wav(file: bytes, words: Words) -> bytes:
    """INFO fields, and XMP in the chunk _PMX (ISO 16684-3), behind the samples."""
    fields = {
        b"ISFT": words.software,
        b"ISRC": words.source,
        b"ICMT": words.comment,
        b"AIGC": words.aigc,
        b"GNLM": words.statement,
    }
    info = b"".join(_riff(name, value.encode() + b"\0") for name, value in fields.items())
    whole = (
        file + b"\0" * (len(file) % 2) + _riff(b"LIST", b"INFO" + info) + _riff(b"_PMX", words.xmp.encode())
    )
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def found_wav(file: bytes) -> Statement | None:
    """The statement of the INFO field or, where that is gone, of the XMP."""
    for name, start, end in _chunks(file):
        if name == b"LIST" and file[start : start + 4] == b"INFO":
            inner = b"\0" * 8 + file[start:end]
            for field, first, last in _chunks(inner):
                if field == b"GNLM":
                    return parsed(inner[first:last].rstrip(b"\0"))
        if name == b"_PMX" and (statement := in_xmp(file[start:end])):
            return statement
    return None


def _comments(words: Words) -> list[bytes]:
    """Vorbis comments, NAME=value."""
    fields = {
        "COMMENT": words.comment,
        "ENCODER": words.software,
        "DIGITALSOURCETYPE": SOURCE,
        "AIGC": words.aigc,
        NAME: words.statement,
    }
    return [f"{name}={value}".encode() for name, value in fields.items()]


def _written(vendor: bytes, comments: list[bytes]) -> bytes:
    parts = [vendor, struct.pack("<I", len(comments))]
    parts[0] = struct.pack("<I", len(vendor)) + vendor
    return b"".join(parts + [struct.pack("<I", len(one)) + one for one in comments])


def _read(block: bytes) -> tuple[bytes, list[bytes]]:
    """The vendor and the comments of a block of Vorbis comments; raises `UserError`."""
    try:
        (size,) = struct.unpack_from("<I", block)
        vendor, place = block[4 : 4 + size], 8 + size
        (count,) = struct.unpack_from("<I", block, place - 4)
        comments = []
        for _ in range(count):
            (size,) = struct.unpack_from("<I", block, place)
            comments.append(block[place + 4 : place + 4 + size])
            place += 4 + size
    except struct.error as error:
        raise UserError(DAMAGED) from error
    return vendor, comments


def _said(comments: list[bytes]) -> Statement | None:
    prefix = f"{NAME}=".encode()
    return next((parsed(one.removeprefix(prefix)) for one in comments if one.startswith(prefix)), None)


def _blocks(file: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """The blocks before a FLAC file's frames (RFC 9639, section 8): kind, start, end, whether it is the last."""
    place, last = 4, False
    while not last and place + 4 <= len(file):
        kind, last = file[place] & 127, bool(file[place] >> 7)
        end = place + 4 + int.from_bytes(file[place + 1 : place + 4], "big")
        yield kind, place, end, last
        place = end


def put_flac(file: bytes, words: Words) -> bytes:
    """The comments into the file's block of them, or a new one behind its first block."""
    parts, comments, vendor, frames = [], list[bytes](), VENDOR, 4
    for kind, start, end, _ in _blocks(file):
        frames = end
        if kind == 4:
            vendor, comments = _read(file[start + 4 : end])
        else:
            parts.append(bytes([kind]) + file[start + 1 : end])
    block = _written(vendor, comments + _comments(words))
    parts.insert(1, b"\x04" + len(block).to_bytes(3, "big") + block)
    parts[-1] = bytes([parts[-1][0] | 128]) + parts[-1][1:]
    return file[:4] + b"".join(parts) + file[frames:]


def found_flac(file: bytes) -> Statement | None:
    """The statement of the comments."""
    file = file[after_id3(file) :]
    blocks = [file[start + 4 : end] for kind, start, end, _ in _blocks(file) if kind == 4]
    return next((_said(_read(block)[1]) for block in blocks), None)


@dataclass(frozen=True)
class Page:
    """A page of an Ogg stream (RFC 3533): where it begins, its header, its content."""

    start: int
    header: bytes
    body: bytes


def _pages(file: bytes) -> Iterator[Page]:
    place = 0
    while file[place : place + 4] == b"OggS" and place + 27 <= len(file):
        table = file[place + 27 : place + 27 + file[place + 26]]
        begin = place + 27 + len(table)
        end = begin + sum(table)
        yield Page(place, file[place : place + 27], file[begin:end])
        place = end


def _page(header: bytes, body: bytes) -> bytes:
    """A page of one whole packet, with the checksum that its content wants."""
    table = bytes([255] * (len(body) // 255) + [len(body) % 255])
    whole = header[:22] + b"\0\0\0\0" + bytes([len(table)]) + table + body
    return whole[:22] + struct.pack("<I", _checksum(whole)) + whole[26:]


def _checksum(page: bytes) -> int:
    """CRC-32 with the polynomial 0x04c11db7, not reflected, from zero."""
    found = 0
    for byte in page:
        found = ((found << 8) & 0xFFFFFFFF) ^ TABLE[(found >> 24) ^ byte]
    return found


def _entry(byte: int) -> int:
    found = byte << 24
    for _ in range(8):
        found = ((found << 1) ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFFFFFF
    return found


TABLE = [_entry(byte) for byte in range(256)]


def put_opus(file: bytes, words: Words) -> bytes:
    """The comments into the second page, which libopusfile's writers give to them alone (RFC 7845, section 5.2)."""
    pages = list(_pages(file))
    if len(pages) < 2 or not pages[1].body.startswith(b"OpusTags"):
        raise UserError(DAMAGED)
    vendor, comments = _read(pages[1].body[8:])
    body = b"OpusTags" + _written(vendor, comments + _comments(words))
    rest = pages[2].start if len(pages) > 2 else len(file)
    return file[: pages[1].start] + _page(pages[1].header, body) + file[rest:]


def found_opus(file: bytes) -> Statement | None:
    """The statement of the comments."""
    tags = next((page.body[8:] for page in _pages(file) if page.body.startswith(b"OpusTags")), None)
    return None if tags is None else _said(_read(tags)[1])


def content_opus(file: bytes) -> str:
    """The sha256 of the coded sound: what a decoder makes of it differs by its version."""
    pages = list(_pages(file))
    tags = next((place for place, page in enumerate(pages) if page.body.startswith(b"OpusTags")), None)
    if tags is None:
        raise UserError(DAMAGED)
    return hashlib.sha256(b"opus " + b"".join(page.body for page in pages[tags + 1 :])).hexdigest()


def _syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def after_id3(file: bytes) -> int:
    """Where a file begins behind its ID3v2 tag, if it has one; C2PA puts such a tag before FLAC too."""
    if file[:3] != b"ID3":
        return 0
    size = sum((byte & 127) << shift for byte, shift in zip(file[6:10], (21, 14, 7, 0), strict=False))
    return 10 + size + (10 if len(file) > 5 and file[5] & 16 else 0)


def _frame(name: bytes, value: bytes) -> bytes:
    return name + _syncsafe(len(value)) + b"\0\0" + value


def put_mp3(file: bytes, words: Words) -> bytes:
    """An ID3v2.4 tag before the frames, in the place of one that is there."""
    pairs = {"AIGC": words.aigc, NAME: words.statement, "DigitalSourceType": SOURCE}
    body = b"".join(
        [
            _frame(b"TSSE", b"\x03" + words.software.encode()),
            _frame(b"COMM", b"\x03eng\0" + words.comment.encode()),
            *(_frame(b"TXXX", f"\x03{name}\0{value}".encode()) for name, value in pairs.items()),
            _frame(b"PRIV", b"XMP\0" + words.xmp.encode()),
        ]
    )
    return b"ID3\x04\0\0" + _syncsafe(len(body)) + body + file[after_id3(file) :]


def found_mp3(file: bytes) -> Statement | None:
    """The statement of the frame TXXX or, where that is gone, of the XMP; other writers may code texts in UTF-16."""
    tag = file[: after_id3(file)]
    for coding, prefix in (("utf-8", f"{NAME}\0".encode()), ("utf-16-le", f"{NAME}\0".encode("utf-16-le"))):
        begin = tag.find(prefix)
        if begin >= 0:
            return beginning(tag[begin + len(prefix) :].decode(coding, "replace").lstrip("\ufeff"))
    return in_xmp(tag)


def content_mp3(file: bytes) -> str:
    """The sha256 of the coded frames: what a decoder makes of them differs by its version."""
    end = len(file) - 128 if file[-128:-125] == b"TAG" else len(file)
    return hashlib.sha256(b"mp3 " + file[after_id3(file) : end]).hexdigest()
