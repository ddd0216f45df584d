"""Marks in Standard MIDI files (RP-001): a text event at the beginning of the first track; the rest stays as it is."""

from __future__ import annotations

import hashlib
import struct

from components.labels.statement import FIELD, Statement, Words, parsed

HEAD = b"MThd"
TEXT_EVENT = b"\x00\xff\x01"
"""At once, a text."""
NAME = f"{FIELD} ".encode()
"""What our text begins with."""


def put(file: bytes, words: Words) -> bytes:
    """`file` with the mark; one whose first track is not where it belongs stays without."""
    place = _track(file)
    if place is None:
        return file
    text = NAME + words.statement.encode()
    event = TEXT_EVENT + _length(len(text)) + text
    return _with(file, place, event, 0)


def found(file: bytes) -> Statement | None:
    """The statement in a file, or None."""
    return parsed(_text(file)[0])


def content(file: bytes) -> str:
    """The sha256 of the file without its mark."""
    text, size = _text(file)
    place = _track(file)
    if text and place is not None:
        file = _with(file, place, b"", size)
    return hashlib.sha256(b"midi " + file).hexdigest()


def _track(file: bytes) -> int | None:
    """Where the events of the first track begin, or None."""
    if file[:4] != HEAD or len(file) < 22:
        return None
    place = 8 + int(struct.unpack(">I", file[4:8])[0])
    return place + 8 if file[place : place + 4] == b"MTrk" and place + 8 <= len(file) else None


def _with(file: bytes, place: int, event: bytes, gone: int) -> bytes:
    """`file` with `event` instead of the first `gone` bytes of the track whose events begin at `place`."""
    (before,) = struct.unpack(">I", file[place - 4 : place])
    size = struct.pack(">I", max(0, before + len(event) - gone))
    return file[: place - 4] + size + event + file[place + gone :]


def _text(file: bytes) -> tuple[bytes, int]:
    """The text of our mark and the bytes of its event; nothing and 0 where there is none."""
    place = _track(file)
    if place is None or not file.startswith(TEXT_EVENT, place):
        return b"", 0
    size, begin = 0, place + len(TEXT_EVENT)
    for byte in file[begin : begin + 4]:
        size, begin = size << 7 | byte & 0x7F, begin + 1
        if not byte & 0x80:
            break
    text = file[begin : begin + size]
    if len(text) < size or not text.startswith(NAME):
        return b"", 0
    return text.removeprefix(NAME), begin + size - place


def _length(size: int) -> bytes:
    """A number in MIDI's seven bits a byte, the highest first."""
    parts = [size & 0x7F]
    while size := size >> 7:
        parts.append(size & 0x7F | 0x80)
    return bytes(reversed(parts))
