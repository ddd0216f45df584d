"""The kinds of files that carry marks, by media type: how a mark is put in and found, and what their content is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from components.errors import UserError
from components.labels import midi, png, sound
from components.labels.statement import Statement, Words


@dataclass(frozen=True)
class Format:
    """How files of a media type are marked; without `put` they have no place for a mark.

    `content` is a sha256 in hex of what a reader of the file sees or hears, which no mark changes.
    """

    content: Callable[[bytes], str]
    put: Callable[[bytes, Words], bytes] | None = None
    found: Callable[[bytes], Statement | None] = lambda _: None
    sealed: bool = False
    """Whether C2PA has a place in such files."""


def text_content(text: bytes) -> str:
    """The sha256 of a text in UTF-8."""
    return hashlib.sha256(b"text " + text).hexdigest()


def _levels(file: bytes) -> str:
    return hashlib.sha256(b"pcm " + file).hexdigest()


PNG, WAV, MP3, FLAC, OPUS = "image/png", "audio/wav", "audio/mpeg", "audio/flac", "audio/ogg"
TEXT, PCM, JPEG, WEBP = "text/plain", "audio/pcm", "image/jpeg", "image/webp"
MIDI = "audio/midi"
FORMATS: Mapping[str, Format] = {
    PNG: Format(png.content, png.put, png.found, sealed=True),
    WAV: Format(sound.lossless, sound.put_wav, sound.found_wav, sealed=True),
    MP3: Format(sound.content_mp3, sound.put_mp3, sound.found_mp3, sealed=True),
    FLAC: Format(sound.lossless, sound.put_flac, sound.found_flac, sealed=True),
    OPUS: Format(sound.content_opus, sound.put_opus, sound.found_opus),
    MIDI: Format(midi.content, midi.put, midi.found),
    PCM: Format(_levels),
    TEXT: Format(text_content),
    # what others made of our pictures, if they kept the XMP
    JPEG: Format(png.content, found=png.found, sealed=True),
    WEBP: Format(png.content, found=png.found, sealed=True),
}


OTHER = Format(lambda file: hashlib.sha256(b"file " + file).hexdigest())
"""Any other kind of file."""


def format_of(media_type: str) -> Format:
    """How files of a media type, with or without its parameters, are marked; tables and SMILES are texts as well."""
    kind = media_type.partition(";")[0]
    return FORMATS[TEXT] if kind.startswith(("text/", "chemical/")) else FORMATS.get(kind, OTHER)


def media_type_of(file: bytes) -> str | None:
    """The media type of a file by its first bytes; None for what is none of `FORMATS`."""
    if file[:4] == b"RIFF":
        return {b"WAVE": WAV, b"WEBP": WEBP}.get(file[8:12])
    begins = {b"\x89PNG": PNG, b"\xff\xd8\xff": JPEG, b"fLaC": FLAC, b"OggS": OPUS, midi.HEAD: MIDI}
    for start, kind in begins.items():
        if file.startswith(start):
            return kind
    if file[:3] == b"ID3":
        return FLAC if file[sound.after_id3(file) :].startswith(b"fLaC") else MP3
    if len(file) > 1 and file[0] == 0xFF and file[1] & 0xE6 == 0xE2:  # MPEG audio, layer III
        return MP3
    try:
        text = file.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else TEXT


def check_known(media_type: str | None, name: str) -> None:
    """Raise `UserError` if `media_type_of` knew nothing of the file `name`."""
    if media_type is None:
        raise UserError(
            f"{name} is no kind of file that Genloom makes; give a PNG, WAV, MP3, FLAC, Opus or MIDI file, a text, "
            "a JSON answer or Parquet."
        )
