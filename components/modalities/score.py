"""Music as notes on a grid of steps: what notations read and write, and what files, pictures and sound are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

DRUMS = 128
"""The number of a voice of drums; the others have a program of General MIDI, 0 to 127."""
PIANO = 0
TEMPO = 90.0
"""Quarters a minute where nobody says."""


class NotMusic(Exception):  # noqa: N818 - it names a finding about one file, which is then left out
    """This holds no music that can be used; the message is the reason."""


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """A note of MIDI `pitch` from step `start` on for `length` steps, in the voice of that number."""

    start: int
    voice: int
    pitch: int
    length: int

    @property
    def end(self) -> int:
        """The first step that it does not sound in."""
        return self.start + self.length


@dataclass(frozen=True)
class Voice:
    """A part: what it is called, and its program of General MIDI (`DRUMS` for percussion)."""

    name: str
    program: int = PIANO


@dataclass(frozen=True)
class Score:
    """Notes in order, `length` steps of them, `steps` to a quarter and `bar` to a bar; `tempo` in quarters a minute."""

    notes: tuple[Note, ...]
    voices: tuple[Voice, ...]
    steps: int
    length: int
    bar: int
    tempo: float = TEMPO

    @property
    def bars(self) -> int:
        """How many bars there are, the last perhaps not full."""
        return -(-self.length // self.bar)

    def cut(self, first: int, last: int) -> Score:
        """What sounds from step `first` until `last`, from 0 on; notes that go on beyond are cut."""
        last = min(last, self.length)
        kept = [
            replace(
                note,
                start=max(note.start, first) - first,
                length=min(note.end, last) - max(note.start, first),
            )
            for note in self.notes
            if note.start < last and note.end > first
        ]
        return replace(self, notes=tuple(sorted(kept)), length=max(0, last - first))

    def moved(self, by: int) -> Score:
        """All notes `by` semitones higher, but for drums."""
        return replace(
            self,
            notes=tuple(
                note if self.voices[note.voice].program == DRUMS else replace(note, pitch=note.pitch + by)
                for note in self.notes
            ),
        )

    @property
    def pitched(self) -> list[Note]:
        """The notes that are no drums."""
        return [note for note in self.notes if self.voices[note.voice].program != DRUMS]


Frame = Sequence[int | None]
"""What each voice sounds in a step: a pitch, or None."""


def of_frames(
    frames: Iterable[Frame], voices: Sequence[Voice], steps: int, bar: int, tempo: float = TEMPO
) -> Score:
    """Frames [T][voices] as notes: a pitch that stays is held, as the frames do not say that it is struck again."""
    notes: list[Note] = []
    sounding: dict[int, tuple[int, int]] = {}
    step = -1
    for step, frame in enumerate(frames):
        for voice, pitch in enumerate(frame):
            held = sounding.get(voice)
            if held is not None and held[1] != pitch:
                notes.append(Note(held[0], voice, held[1], step - held[0]))
                del sounding[voice]
            if pitch is not None and voice not in sounding:
                sounding[voice] = step, pitch
    for voice, (start, pitch) in sounding.items():
        notes.append(Note(start, voice, pitch, step + 1 - start))
    return Score(tuple(sorted(notes)), tuple(voices), steps, step + 1, bar, tempo)


def single(score: Score) -> bool:
    """Whether no voice has two notes at once, so that each step of it holds one of them at most."""
    ends: dict[int, int] = defaultdict(int)
    for note in sorted(score.notes):
        if note.start < ends[note.voice]:
            return False
        ends[note.voice] = note.end
    return True
