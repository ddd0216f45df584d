"""Marks in every kind of file, read back by those who write none of them: Pillow, libsndfile, mutagen."""

from __future__ import annotations

import io
import json
import struct
from contextlib import suppress
from typing import Any

import mido
import mutagen
import numpy as np
import pytest
import soundfile
from PIL import Image, PngImagePlugin

from components.errors import UserError
from components.labels.formats import FLAC, FORMATS, JPEG, MIDI, MP3, OPUS, PNG, WAV, WEBP, media_type_of
from components.labels.statement import SOURCE, Statement, Wording, of_content, parsed
from components.modalities.drawing import png
from components.modalities.speech import written

RANDOM = np.random.default_rng(0)
ABOUT = Statement("mnist", 3, "ab" * 32, producer="A & B <“é”>", generator="Genloom 9")
WORDING = Wording(ABOUT)
LEVELS = (RANDOM.standard_normal(4000) * 3000).astype(np.int16)


def picture(side: int, channels: int) -> bytes:
    return png(RANDOM.integers(0, 256, (side, side, channels), dtype=np.uint8), (side, side))


def piece() -> bytes:
    file, stream = mido.MidiFile(), io.BytesIO()
    track = file.add_track("score")
    for pitch in (60, 64, 67):
        track += [mido.Message("note_on", note=pitch), mido.Message("note_off", note=pitch, time=480)]
    file.save(file=stream)
    return stream.getvalue()


def files() -> dict[str, tuple[str, bytes]]:
    sounds = {"wav": WAV, "flac": FLAC, "mp3": MP3, "opus": OPUS}
    named: dict[str, Any] = {f"{channels}x{side}": (PNG, picture(side, channels)) for side, channels in SIDES}
    named["mid"] = (MIDI, piece())
    return named | {kind: (media, written(LEVELS, 8000, kind)) for kind, media in sounds.items()}  # type: ignore[arg-type]


SIDES = [(28, 1), (16, 3), (96, 1), (200, 3)]
"""Small ones that we write without filters, and ones that Pillow writes."""
FILES = files()


def marked(media: str, file: bytes, seed: int | None = 7) -> bytes:
    kind = FORMATS[media]
    assert kind.put is not None
    return kind.put(file, WORDING.of(seed, kind.content(file)))


@pytest.mark.parametrize("name", FILES)
def test_a_mark_says_who_made_the_file_and_leaves_its_content(name: str) -> None:
    media, file = FILES[name]
    kind, whole = FORMATS[media], marked(media, file)
    assert kind.found(file) is None
    assert kind.content(whole) == kind.content(file)
    assert media_type_of(whole) == media_type_of(file) == media
    expected = Statement(
        **{
            **ABOUT.__dict__,
            "seed": 7,
            "content": kind.content(file),
        }  # what `Wording` was given, of this file
    )
    assert kind.found(whole) == expected
    assert marked(media, file) == whole, "the same seed gives the same bytes"


@pytest.mark.parametrize("name", [name for name, (media, _) in FILES.items() if media == PNG])
def test_pillow_reads_the_fields_of_a_picture_and_its_own_pixels(name: str) -> None:
    _, file = FILES[name]
    with Image.open(io.BytesIO(marked(PNG, file))) as found, Image.open(io.BytesIO(file)) as bare:
        assert (found.mode, found.size, found.tobytes()) == (bare.mode, bare.size, bare.tobytes())
        assert found.info["Software"] == "Genloom 9"
        assert found.info["Comment"] == "Made by a machine-learning model: mnist/3"
        about = found.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert about["DigitalSourceType"] == SOURCE
    assert (about["AISystemUsed"], about["AISystemVersionUsed"]) == ("mnist", "3")
    aigc = json.loads(about["AIGC"])
    assert (aigc["Label"], aigc["ContentProducer"], aigc["ProduceID"]) == ("1", ABOUT.producer, "mnist/3/7")
    assert parsed(about["Statement"]) == parsed(found.info["Genloom"])


def test_small_pictures_have_the_hash_that_others_have() -> None:
    """The short way reads a picture that we wrote as Pillow reads the same pixels written with filters."""
    for side, channels in SIDES[:2]:
        own = picture(side, channels)
        stream = io.BytesIO()
        Image.open(io.BytesIO(own)).save(stream, "PNG", compress_level=9)
        assert FORMATS[PNG].content(own) == FORMATS[PNG].content(stream.getvalue())


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_libsndfile_hears_the_same_and_reads_the_tags(name: str) -> None:
    media, file = FILES[name]
    whole = marked(media, file)
    bare, _ = soundfile.read(io.BytesIO(file))
    with soundfile.SoundFile(io.BytesIO(whole)) as found:
        assert found.comment == "Made by a machine-learning model: mnist/3"
        assert np.allclose(found.read(), bare, rtol=0, atol=1e-6)  # mpg123 rounds by where its buffer begins


@pytest.mark.parametrize("name", ["flac", "mp3", "opus"])
def test_mutagen_reads_the_tags(name: str) -> None:
    media, file = FILES[name]
    tags = mutagen.File(io.BytesIO(marked(media, file))).tags
    if media == MP3:
        own, aigc, source = (str(tags[f"TXXX:{field}"]) for field in ("GENLOOM", "AIGC", "DigitalSourceType"))
    else:
        own, aigc, source = (tags[field][0] for field in ("genloom", "aigc", "digitalsourcetype"))
    found = parsed(own)
    assert found is not None
    assert (found.name, found.seed, found.producer, source) == ("mnist/3", 7, ABOUT.producer, SOURCE)
    assert json.loads(aigc)["ProduceID"] == "mnist/3/7"


@pytest.mark.parametrize("name", ["flac", "mp3", "opus"])
def test_a_mark_survives_another_program_that_writes_tags(name: str, tmp_path: Any) -> None:
    media, file = FILES[name]
    path = tmp_path / f"a.{name}"
    path.write_bytes(marked(media, file))
    other = mutagen.File(path)
    if media == MP3:
        from mutagen.id3 import TIT2

        other.tags.add(TIT2(encoding=1, text=["another title"]))
    else:
        other["title"] = ["another title"]
    other.save()
    found = FORMATS[media].found(path.read_bytes())
    assert found is not None
    assert found.name == "mnist/3"
    assert FORMATS[media].content(path.read_bytes()) == FORMATS[media].content(file) == found.content


@pytest.mark.parametrize("name", ["flac", "mp3", "opus"])
def test_a_stripped_file_has_no_mark_and_the_content_of_before(name: str, tmp_path: Any) -> None:
    media, file = FILES[name]
    path = tmp_path / f"a.{name}"
    path.write_bytes(marked(media, file))
    other = mutagen.File(path)
    other.delete()
    assert FORMATS[media].found(path.read_bytes()) is None
    assert FORMATS[media].content(path.read_bytes()) == FORMATS[media].content(file)


def test_a_picture_that_was_converted_keeps_what_its_xmp_says() -> None:
    with Image.open(io.BytesIO(marked(PNG, FILES["3x200"][1]))) as picture:
        packet = picture.info["XML:com.adobe.xmp"].encode()
        for kind, media in (("JPEG", JPEG), ("WEBP", WEBP)):
            stream = io.BytesIO()
            picture.save(stream, kind, xmp=packet)
            found = FORMATS[media].found(stream.getvalue())
            assert found is not None, kind
            assert (found.name, found.producer) == ("mnist/3", ABOUT.producer)
            assert found.content != FORMATS[media].content(stream.getvalue())


def test_several_files_in_one_have_no_seed() -> None:
    found = FORMATS[PNG].found(marked(PNG, FILES["1x28"][1], seed=None))
    assert found is not None
    assert found.seed is None


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"nothing", b'{"product": 3}', b"[" * 100_000, b"\xff"]
    + [
        json.dumps({**ABOUT.__dict__, field: value}).encode()
        for field, value in (("version", "3"), ("seed", "7"))
    ]
    + [
        json.dumps({**ABOUT.__dict__, "content": 5}).encode(),
        json.dumps({**ABOUT.__dict__, "digest": []}).encode(),
    ],
)
def test_what_is_no_statement_is_none(content: bytes) -> None:
    assert parsed(content) is None


def test_a_statement_may_say_more_than_we_know() -> None:
    found = of_content({**ABOUT.__dict__, "of_a_later_version": True})
    assert found == ABOUT


@pytest.mark.parametrize("name", ["1x28", "3x200", "wav", "flac", "opus"])
def test_a_file_that_was_cut_is_told_or_has_another_hash(name: str) -> None:
    """Never the hash of the whole file, and nothing but a sentence."""
    media, file = FILES[name]
    whole = marked(media, file)
    for end in (20, 60, len(whole) // 2, len(file) * 3 // 4):
        for look in (FORMATS[media].content, FORMATS[media].found):
            with suppress(UserError):
                assert look(whole[:end]) != FORMATS[media].content(file)


def test_a_picture_that_swells_is_not_decoded() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Genloom", "{}")
    stream = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(stream, "PNG", pnginfo=info)
    with pytest.raises(UserError, match="too"):
        FORMATS[PNG].content(stream.getvalue())
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    swollen = picture(28, 1)
    with pytest.raises(UserError):
        FORMATS[PNG].content(swollen[:16] + head + swollen[29:])


def test_others_read_the_text_and_the_same_notes_in_a_piece() -> None:
    whole = mido.MidiFile(file=io.BytesIO(marked(MIDI, piece())))
    text, *rest = whole.tracks[0]
    assert text.type == "text"
    assert parsed(text.text.removeprefix("genloom ")) == FORMATS[MIDI].found(marked(MIDI, piece()))
    assert rest == mido.MidiFile(file=io.BytesIO(piece())).tracks[0]


@pytest.mark.parametrize("cut", [10, 20, 24, 60])
def test_a_cut_piece_says_nothing_and_raises_nothing(cut: int) -> None:
    part = marked(MIDI, piece())[:cut]
    assert FORMATS[MIDI].found(part) is None
    assert FORMATS[MIDI].content(part)
