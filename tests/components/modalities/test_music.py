"""Music: MIDI files, notations, the changes of training, how pieces look and sound."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from components.data.counterpoint import pieces
from components.errors import UserError
from components.families.family import END, NOTHING, Shape
from components.modalities.midi import LARGEST, read_midi, write_midi
from components.modalities.modality import DRAW
from components.modalities.music import Music
from components.modalities.notation import NOTATION, QUARTERS, Events, Grid, Notation, fit, load_notation
from components.modalities.playing import MusicRequest, prime_of, to_requests
from components.modalities.roll import COLOURS, TONE, rolls
from components.modalities.score import DRUMS, Note, NotMusic, Score, Voice, of_frames, single
from components.modalities.strings import RATE, play

FLUTE, BASS, KIT = Voice("flute", 73), Voice("bass", 33), Voice("kit", DRUMS)


def band() -> Score:
    """Three bars of four quarters by a flute of two tones at once, a bass and drums; the second bar is empty."""
    notes = [
        Note(0, 0, 72, 4),
        Note(0, 0, 76, 2),
        Note(0, 1, 40, 16),
        Note(2, 2, 38, 1),
        Note(35, 0, 71, 9),
        Note(32, 1, 45, 1),
    ]
    return Score(tuple(sorted(notes)), (FLUTE, BASS, KIT), 4, 48, 16, 100.0)


def quartet() -> list[Score]:
    return list(pieces(12))


@pytest.fixture(scope="module", params=["grid", "events"])
def notation(request: pytest.FixtureRequest) -> Notation:
    return fit(request.param, quartet(), 1)


def message(*parts: Any, division: int = 480, kind: int = 0) -> bytes:
    """A MIDI file of one track with these messages."""
    file = mido.MidiFile(type=kind, ticks_per_beat=division)
    file.add_track().extend(parts)
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def on(pitch: int, time: int = 0, channel: int = 0, velocity: int = 64) -> mido.Message:
    return mido.Message("note_on", note=pitch, time=time, channel=channel, velocity=velocity)


def test_a_score_comes_back_from_its_midi_file() -> None:
    score = band()
    found = read_midi(write_midi(score), 4)
    assert found == replace(score, length=44), "a file ends with its last note"
    assert write_midi(score) == write_midi(score)
    assert read_midi(write_midi(score), 8).notes[-1].start == 2 * score.notes[-1].start
    three = replace(quartet()[0], bar=3)
    assert read_midi(write_midi(three), 1) == three
    assert read_midi(write_midi(replace(score, bar=14)), 4).bar == 14, "seven eighths"


def test_what_files_may_do_is_read() -> None:
    late = message(on(60, 480 * 9), on(64, 0), on(60, 240, velocity=0), on(64, 240, velocity=0))
    assert read_midi(late, 2).notes == (Note(2, 0, 60, 1), Note(2, 0, 64, 2)), "two bars of silence are cut"
    twice = read_midi(message(on(60), on(60, 480), on(60, 480, velocity=0), on(60, 480, velocity=0)), 1)
    assert twice.notes == (Note(0, 0, 60, 1), Note(1, 0, 60, 2)), "a tone that is struck again ends before"
    assert read_midi(message(on(60), on(62, 960)), 1).notes[0] == Note(0, 0, 60, 2), (
        "never ended: with the track"
    )
    waltz = message(
        mido.MetaMessage("time_signature", numerator=3, denominator=4), on(60), on(60, 9, velocity=0)
    )
    assert (read_midi(waltz, 4).bar, read_midi(waltz, 4).notes[0].length) == (12, 1)
    channels = read_midi(message(on(60), on(36, 0, 9), on(60, 480, velocity=0), on(36, 0, 9, 0)), 1)
    assert [voice.program for voice in channels.voices] == [0, DRUMS]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no MIDI file"),
        (b"RIFF and so on", "no MIDI file"),
        (b"MThd" + b"\xff" * 40, "a broken MIDI file"),
        (message(on(60))[:-9], "a broken MIDI file"),
        (message(), "no notes"),
        (message(on(60), kind=2), "a MIDI file of independent songs, or without quarters"),
        (b"MThd" + bytes(LARGEST), "a file of more than 4 MiB"),
        (message(*[part for _ in range(2) for part in (on(60, 2**27), on(60, 2**27, velocity=0))]), "longer"),
    ],
)
def test_what_is_no_music_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(NotMusic, match=reason):
        read_midi(data, 4)


def test_broken_files_never_raise_anything_else() -> None:
    whole, generator = write_midi(band()), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in generator.integers(8, len(data), size=3):
            data[place] = generator.integers(256)
        try:
            read_midi(bytes(data), 4)
        except NotMusic:
            continue


def test_pieces_come_back_from_their_tokens(notation: Notation, tmp_path: Path) -> None:
    for score in quartet():
        tokens = notation.encode(score)
        assert min(tokens) > 0
        assert max(tokens) < notation.vocabulary
        found = notation.decode(tokens)
        longest = 32 if isinstance(notation, Grid) else QUARTERS
        sounding = {(note.start, note.pitch, min(note.length, longest)) for note in score.notes}
        assert {(note.start, note.pitch, note.length) for note in found.notes} == sounding
        assert (found.length, found.bar, found.tempo) == (32, 4, 80.0)
        assert not isinstance(notation, Grid) or found == score
    assert notation.save(tmp_path) == NOTATION
    assert load_notation(tmp_path) == notation


def test_events_write_several_instruments_and_meters() -> None:
    waltz = replace(band(), bar=12)
    notation = fit("events", [band(), waltz], 4)
    assert isinstance(notation, Events)
    assert (notation.meters, [voice.program for voice in notation.voices]) == ((12, 16), [33, 73, DRUMS])
    for score in (band(), waltz):
        found = notation.decode(notation.encode(score))
        programs = [voice.program for voice in found.voices]
        heard = {(n.start, programs[n.voice], n.pitch, n.length) for n in found.notes}
        assert heard == {(n.start, score.voices[n.voice].program, n.pitch, n.length) for n in score.notes}
        assert (found.length, found.bar) == (48, score.bar)
    stranger = replace(band(), voices=(Voice("piccolo", 72), Voice("oboe", 68), KIT), bar=13)
    found = notation.decode(notation.encode(stranger))
    assert {notation.voices[note.voice].program for note in found.notes} == {73, 33, DRUMS}
    assert found.bar == 12, "the nearest of those that are known"
    assert {note.start for note in found.notes} == {note.start for note in stranger.notes}


def test_pitches_beyond_are_moved_by_octaves(notation: Notation) -> None:
    score = quartet()[0]
    for by in (36, -36):
        found = notation.decode(notation.encode(score.moved(by)))
        tones = {note.pitch for note in found.notes}
        assert notation.lowest <= min(tones)
        assert max(tones) <= notation.highest
        if isinstance(notation, Grid):
            moved = zip(found.notes, score.notes, strict=True)
            assert all((new.pitch - old.pitch) % 12 == 0 for new, old in moved)


def test_any_tokens_can_be_read(notation: Notation) -> None:
    generator = np.random.default_rng(1)
    for size in (0, 1, 2, 7, 200):
        tokens = generator.integers(-1, notation.vocabulary + 3, size=size).tolist()
        score = notation.decode(tokens)
        assert all(note.length > 0 and note.start >= 0 for note in score.notes)
        assert not isinstance(notation, Grid) or single(score)
        if score.notes:
            read_midi(write_midi(score), notation.steps)


def test_a_grid_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    grid = fit("grid", quartet(), 1)
    with pytest.raises(NotMusic, match="not of 4 voices"):
        grid.encode(band())
    chord = of_frames([[60, 55, 50, 45]], grid.voices, 1, 4)
    with pytest.raises(NotMusic, match="several notes at once"):
        grid.encode(replace(chord, notes=(*chord.notes, Note(0, 0, 64, 1))))
    with pytest.raises(UserError, match="None of the training pieces has a tone"):
        fit("grid", [replace(band(), notes=())], 1)
    (tmp_path / NOTATION).write_text('{"notation": "neumes"}')
    with pytest.raises(UserError, match="is damaged"):
        load_notation(tmp_path)


def test_held_and_repeated_tones_are_told_apart() -> None:
    voice = (Voice("solo"),)
    held = Score((Note(0, 0, 60, 2),), voice, 1, 2, 4)
    struck = Score((Note(0, 0, 60, 1), Note(1, 0, 60, 1)), voice, 1, 2, 4)
    grid = fit("grid", [held], 1)
    assert grid.encode(held) != grid.encode(struck)
    assert grid.decode(grid.encode(held)).notes == held.notes
    assert grid.decode(grid.encode(struck)).notes == struck.notes
    assert grid.decode(grid.encode(held)[1:]).notes == (Note(0, 0, 60, 1),), (
        "a window may begin within a tone"
    )


def test_training_moves_rows_as_far_as_they_may(notation: Notation, tmp_path: Path) -> None:
    notation.save(tmp_path)
    music, score = Music(tmp_path), quartet()[0]
    row = [END, *notation.encode(score), END]
    pitches = notation.pitches[np.array(row)]
    lower = int(pitches[pitches >= 0].min()) - notation.lowest
    higher = notation.highest - int(pitches.max())
    columns = {
        "tokens": torch.tensor([[*row, NOTHING]] * 256, dtype=torch.int32),
        "length": torch.full((256,), len(row)),
        "fresh": torch.full((256,), len(row) - 1),
        "width": torch.full((256,), len(row) + 1),
        "lower": torch.full((256,), lower),
        "higher": torch.full((256,), higher),
    }
    plain = music.batch(columns)
    assert plain.data[0].tolist() == [*row, NOTHING], "held-out rows stay as they are"
    draws = torch.randint(2**62, (256,), generator=torch.Generator().manual_seed(0))
    batch = music.batch({**columns, DRAW: draws})
    seen = set()
    for found in batch.data.tolist():
        tokens = [token for token in found if token != NOTHING]
        moved = notation.decode(tokens)
        by = moved.notes[0].pitch - notation.decode(row).notes[0].pitch
        assert moved.notes == notation.decode(row).moved(by).notes
        seen.add(by)
    assert seen == set(range(-lower, higher + 1))


def test_requests_have_the_length_and_the_beginning_that_is_asked(notation: Notation) -> None:
    shape = Shape(data=(100,), vocabulary=notation.vocabulary)
    plain = to_requests(MusicRequest(bars=2, top_p=0.5, temperature=0.0), notation, shape, [7, 8], [])
    assert plain.prompt is not None
    assert plain.prompt.tolist() == [[END], [END]]
    assert plain.seed.tolist() == [7, 8]
    options = {name: value.tolist() for name, value in plain.options.items()}
    assert options["top_p"] == [0.5, 0.5]
    assert options["temperature"] == [0.0, 0.0]
    assert options["max_tokens"] == ([32, 32] if isinstance(notation, Grid) else [99, 99])
    tokens = notation.encode(quartet()[0])
    primed = to_requests(MusicRequest(), notation, shape, [7], tokens)
    assert primed.prompt is not None
    assert primed.prompt[0].tolist() == tokens[-50:], "the last half of the context"
    assert int(primed.options["max_tokens"][0]) == (48 if isinstance(notation, Grid) else 50), "whole steps"


@pytest.mark.parametrize(
    ("prime", "sentence"),
    [
        ("no base 64!", "“prime” is no Base64; send the bytes of a MIDI file so."),
        ("QUJD", "“prime” cannot be continued .no MIDI file.; send a MIDI file with 4 tracks of one note at"),
    ],
)
def test_a_prime_that_is_no_music_is_refused(prime: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prime_of(MusicRequest(prime=prime), fit("grid", quartet(), 1))


def test_rolls_show_voices_in_their_colours() -> None:
    score = of_frames([[60], [60], [62], [None]], [Voice("solo")], 1, 4)
    picture = np.asarray(Image.open(io.BytesIO(rolls([score, score], [None, (0, 2)]))))
    colour = (picture == np.array(COLOURS[0])).all(-1)
    rows = np.flatnonzero(colour.any(1))
    assert len(rows) == 2 * 2 * (TONE - 1), "two tones in each of two rolls"
    low, high = colour[rows[TONE - 1]], colour[rows[0]]
    assert low.sum() > high.sum(), "the tone that is held is longer, and lies below"
    yellow = (picture[..., 2] < 128) & (picture[..., 0] > 200) & ~colour
    assert yellow[: len(picture) // 2].sum() == 0
    assert yellow[len(picture) // 2 :].sum() > 0


def test_strings_play_the_tones_that_are_written() -> None:
    score = of_frames([[69], [69], [None], [None], [57], [57]], [Voice("solo")], 2, 8, 60.0)
    levels, rate = soundfile.read(io.BytesIO(play(score)))
    assert (rate, len(levels)) == (RATE, 4 * RATE)
    assert abs(float(np.abs(levels).max()) - 0.9) < 0.01
    for first, pitch in ((0.1, 440.0), (2.1, 220.0)):
        part = levels[round(first * rate) : round((first + 0.8) * rate)]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * rate))
        peaks = [spectrum[round(8 * pitch * k) - 24 : round(8 * pitch * k) + 25].max() for k in (0.5, 1)]
        assert peaks[1] > 20 * peaks[0], f"the lowest part is that of {pitch} Hz"
    assert np.abs(levels[round(1.3 * rate) : 2 * rate - 10]).max() < 0.01, "damped where it ends"
    silence = Score((), (KIT,), 4, 0, 16)
    assert soundfile.read(io.BytesIO(play(silence)))[0].max() == 0
    drums = Score((Note(0, 0, 38, 1),), (KIT,), 4, 4, 16)
    assert np.abs(soundfile.read(io.BytesIO(play(drums)))[0]).max() > 0.8


def test_the_request_is_strict() -> None:
    for wrong in ({"bars": 0}, {"n": 0}, {"top_p": 1.5}, {"label": "x"}, {"response_format": "mp3"}):
        with pytest.raises(ValueError, match="validation error"):
            MusicRequest.model_validate(wrong)
    assert json.loads(MusicRequest().model_dump_json())["response_format"] == "midi"
