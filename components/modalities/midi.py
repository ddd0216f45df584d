"""Standard MIDI files to notes on a grid, and back; `mido` reads and writes the bytes."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mido

from components.modalities.score import DRUMS, PIANO, TEMPO, Note, NotMusic, Score, Voice

LARGEST = 2**22
"""Bytes of a file; a long symphony has a twentieth of it."""
NOTES = 200_000
"""The most notes of a file."""
LONGEST = 2**20
"""The most steps of a piece."""
TICKS = 480
"""Ticks of a quarter in files that are written."""
LOUD = 80
"""The velocity of all notes that are written: loudness is not modelled."""
PERCUSSION = 9
"""The channel that General MIDI keeps for drums."""
FASTEST, SLOWEST = 400.0, 10.0
"""Quarters a minute; a tempo beyond is a mistake in the file."""


@dataclass
class _Part:
    """What one channel of one track plays: notes as (tick, pitch, ticks), those that sound, its program and name."""

    name: str = ""
    program: int = PIANO
    notes: list[tuple[int, int, int]] = field(default_factory=list)
    open: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def end(self, pitch: int, tick: int) -> None:
        """End the oldest note of this pitch that sounds."""
        if self.open[pitch]:
            start = self.open[pitch].pop(0)
            self.notes.append((start, pitch, tick - start))


def read_midi(data: bytes | Path, steps: int) -> Score:
    """A file on a grid of `steps` a quarter, from its first note on; raises `NotMusic` with the reason.

    A voice is what a channel of a track plays. Bars have the length of the first time signature, or four quarters, and
    are counted from the file's beginning: silence before the first note is cut by whole bars.
    """
    file = _opened(data)
    parts, tempo, quarters = _parts(file)
    voices = [part for _, part in sorted(parts.items()) if part.notes]
    if not voices:
        raise NotMusic("no notes")
    if sum(len(part.notes) for part in voices) > NOTES:
        raise NotMusic(f"more than {NOTES:,} notes")
    bar = max(1, round(quarters * steps))
    notes = sorted(_quantized(voices, steps / file.ticks_per_beat))
    silence = min(note.start for note in notes) // bar * bar
    notes = [Note(note.start - silence, note.voice, note.pitch, note.length) for note in notes]
    length = max(note.end for note in notes)
    if length > LONGEST:
        raise NotMusic(f"longer than {LONGEST:,} steps")
    named = tuple(Voice(part.name or f"voice {place + 1}", part.program) for place, part in enumerate(voices))
    return Score(tuple(notes), named, steps, length, bar, tempo)


def _opened(data: bytes | Path) -> mido.MidiFile:
    content = data.read_bytes() if isinstance(data, Path) else data
    if len(content) > LARGEST:
        raise NotMusic("a file of more than 4 MiB")
    if content[:4] != b"MThd":
        raise NotMusic("no MIDI file")
    try:
        file = mido.MidiFile(file=io.BytesIO(content), clip=True)
    except Exception as error:  # bytes from anywhere: mido raises whatever it stumbles over
        raise NotMusic("a broken MIDI file") from error
    if file.type not in (0, 1, 2):
        raise NotMusic("a broken MIDI file")
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise NotMusic("a MIDI file of independent songs, or without quarters")
    return file


def _parts(file: mido.MidiFile) -> tuple[dict[tuple[int, int], _Part], float, float]:
    """The parts by track and channel, the tempo in quarters a minute, the quarters of a bar."""
    parts: dict[tuple[int, int], _Part] = defaultdict(_Part)
    tempo, quarters = None, None
    for number, track in enumerate(file.tracks):
        tick, name, programs = 0, "", dict[int, int]()
        for message in track:
            tick += message.time
            if message.type == "track_name":
                name = _legible(message.name)
            elif message.type == "set_tempo" and tempo is None and message.tempo:
                tempo = min(FASTEST, max(SLOWEST, 60_000_000 / message.tempo))
            elif message.type == "time_signature" and quarters is None:
                quarters = 4.0 * message.numerator / message.denominator
            elif message.type == "program_change":
                programs[message.channel] = message.program
            elif message.type in ("note_on", "note_off"):
                _heard(parts[number, message.channel], message, tick, name, programs)
        for place, part in parts.items():
            for pitch in list(part.open) if place[0] == number else ():
                while part.open[pitch]:
                    part.end(pitch, tick)
    return parts, tempo or TEMPO, quarters or 4.0


def _heard(part: _Part, message: Any, tick: int, name: str, programs: dict[int, int]) -> None:
    """Begin or end a note of a part."""
    if message.type == "note_on" and message.velocity > 0:
        if not part.notes and not any(part.open.values()):
            drums = message.channel == PERCUSSION
            part.name, part.program = name, DRUMS if drums else programs.get(message.channel, PIANO)
        part.open[message.note].append(tick)
    else:
        part.end(message.note, tick)


def _legible(name: str) -> str:
    return "".join(one for one in name if one.isprintable()).strip()[:64]


def _quantized(parts: list[_Part], scale: float) -> Iterator[Note]:
    """The notes of all parts in steps; of two at one place that last differently, the longer, none overlaps itself."""
    for voice, part in enumerate(parts):
        last: dict[int, Note] = {}
        for tick, pitch, ticks in sorted(part.notes):
            start = round(tick * scale)
            note = Note(start, voice, pitch, max(1, round((tick + ticks) * scale) - start))
            before = last.get(pitch)
            if before is not None and before.start == note.start:
                last[pitch] = max(before, note, key=lambda one: one.length)
                continue
            if before is not None:
                yield Note(before.start, voice, pitch, min(before.length, start - before.start))
            last[pitch] = note
        yield from last.values()


def write_midi(score: Score) -> bytes:
    """The notes as a MIDI file, a track for each voice; the same score gives the same bytes."""
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    numerator, denominator = _signature(score)
    first = file.add_track("score")
    first.append(mido.MetaMessage("set_tempo", tempo=round(60_000_000 / score.tempo)))
    first.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator))
    channels = [channel for channel in range(16) if channel != PERCUSSION]
    for number, voice in enumerate(score.voices):
        drums = voice.program == DRUMS
        channel = PERCUSSION if drums else channels[number % len(channels)]
        track = file.add_track(voice.name.encode("latin-1", "replace").decode("latin-1"))
        if not drums:
            track.append(mido.Message("program_change", channel=channel, program=voice.program))
        tick = 0
        for at, on, pitch in _turns(score, number):
            track.append(
                mido.Message(
                    "note_on", channel=channel, note=pitch, velocity=LOUD if on else 0, time=at - tick
                )
            )
            tick = at
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def _turns(score: Score, voice: int) -> list[tuple[int, bool, int]]:
    """When a note of a voice ends or begins, in ticks; what ends at a tick ends before others begin."""
    found = []
    for note in score.notes:
        if note.voice == voice:
            found.append((note.start * TICKS // score.steps, True, note.pitch))
            found.append((note.end * TICKS // score.steps, False, note.pitch))
    return sorted(found, key=lambda turn: (turn[0], turn[1], turn[2]))


def _signature(score: Score) -> tuple[int, int]:
    """The time signature of bars of so many steps, in quarters where that is possible."""
    for parts in (1, 2, 4, 8, 16):
        if score.bar * parts % score.steps == 0 and score.bar * parts // score.steps <= 255:
            return score.bar * parts // score.steps, 4 * parts
    return 4, 4
