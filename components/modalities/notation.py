"""Music to tokens and back: a grid of voices, or events for any number of notes at once; saved beside the data."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from components import files
from components.errors import UserError
from components.families.family import END
from components.modalities.score import DRUMS, Note, NotMusic, Score, Voice, single

Kind: TypeAlias = Literal["grid", "events"]
NOTATION = "music.json"
"""The file of a notation, in the prepared data and in every artifact."""
QUARTERS = 8
"""The longest note that events write, in quarters, and the longest bar."""
OCTAVE = 12
Pitches: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Notation(ABC):
    """What all notations say of their music: its voices, `steps` a quarter and `bar` a bar, the pitches it holds.

    `tempo` is what answers are played in, in quarters a minute.
    """

    kind: ClassVar[Kind]
    voices: tuple[Voice, ...]
    steps: int
    bar: int
    lowest: int
    highest: int
    tempo: float

    @property
    def span(self) -> int:
        """How many pitches there are."""
        return self.highest - self.lowest + 1

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens there are; number 0 is `END`."""

    @cached_property
    @abstractmethod
    def pitches(self) -> Pitches:
        """The pitch of each token [V], −1 for those that have none or are no tones.

        The token of a tone k semitones higher has a number that is k larger.
        """

    @abstractmethod
    def encode(self, score: Score) -> list[int]:
        """The tokens of a piece without `END`; raises `NotMusic` for what this notation cannot write."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> Score:
        """The piece that tokens stand for, as far as they make sense; a piece of a piece as well."""

    def fitted(self, score: Score) -> Score:
        """`score` in the pitches of this notation: what lies beyond them is moved by octaves."""
        notes = {
            note
            if score.voices[note.voice].program == DRUMS
            else replace(note, pitch=self._folded(note.pitch))
            for note in score.notes
        }
        return replace(score, notes=tuple(sorted(notes)))

    def _folded(self, pitch: int) -> int:
        while pitch < self.lowest:
            pitch += OCTAVE
        while pitch > self.highest and pitch - OCTAVE >= self.lowest:
            pitch -= OCTAVE
        return min(pitch, self.highest)

    def save(self, folder: Path) -> str:
        """Write the notation into `folder` and return the file's name."""
        content = json.dumps({"notation": self.kind, **asdict(self)}, indent=2, sort_keys=True)
        files.write(folder / NOTATION, content)
        return NOTATION


@dataclass(frozen=True)
class Grid(Notation):
    """In each step each voice in turn has one token: it rests, begins a tone, or goes on with the one it has.

    Every voice has its own tokens, so that a token says which voice it is, wherever a row begins.
    """

    kind: ClassVar[Kind] = "grid"

    @property
    def each(self) -> int:
        """The tokens of a voice: a rest, then tones that begin, then tones that go on."""
        return 1 + 2 * self.span

    @property
    def vocabulary(self) -> int:
        """`END`, and the tokens of each voice."""
        return 1 + len(self.voices) * self.each

    @cached_property
    def pitches(self) -> Pitches:
        """See `Notation`."""
        tones = np.arange(self.lowest, self.highest + 1)
        return np.concatenate([[-1], np.tile(np.concatenate([[-1], tones, tones]), len(self.voices))])

    def encode(self, score: Score) -> list[int]:
        """See `Notation`; voices that are more or fewer, or have two tones at once, cannot be written."""
        if len(score.voices) != len(self.voices):
            raise NotMusic(f"not of {len(self.voices)} voices")
        if not single(score):
            raise NotMusic("a voice of several notes at once, which a grid cannot write")
        table = np.tile(1 + np.arange(len(self.voices)) * self.each, (score.length, 1))
        for note in self.fitted(score).notes:
            tone = 1 + note.pitch - self.lowest
            table[note.start, note.voice] += tone
            table[note.start + 1 : note.end, note.voice] += tone + self.span
        found: list[int] = table.flatten().tolist()
        return found

    def decode(self, tokens: Sequence[int]) -> Score:
        """See `Notation`; a token that is not of the next voice begins a step."""
        notes: list[Note] = []
        open_notes: dict[int, Note] = {}
        step, before = -1, len(self.voices)
        for token in tokens:
            if not END < token < self.vocabulary:
                continue
            voice, what = divmod(token - 1, self.each)
            step += step < 0 or voice <= before
            before = voice
            self._heard(notes, open_notes, step, voice, what)
        return Score(
            tuple(sorted([*notes, *open_notes.values()])),
            self.voices,
            self.steps,
            step + 1,
            self.bar,
            self.tempo,
        )

    def _heard(self, notes: list[Note], sounding: dict[int, Note], step: int, voice: int, what: int) -> None:
        """Take one token: `sounding` are the notes that end with the last step, by voice."""
        pitch = self.lowest + (what - 1) % self.span
        held = sounding.pop(voice, None)
        if held is not None and what > self.span and held.pitch == pitch and held.end == step:
            sounding[voice] = replace(held, length=held.length + 1)
            return
        if held is not None:
            notes.append(held)
        if what:
            sounding[voice] = Note(step, voice, pitch, 1)


@dataclass(frozen=True)
class Events(Notation):
    """Notes one after the other, as in REMI (Huang & Yang 2020, arXiv:2002.00212): a bar, a place in it, then pitch and
    length of each note that begins there, behind the instrument where that changes.

    `meters` are the lengths of bars in steps, of which each piece begins with one. `voices` are instruments.
    """

    meters: tuple[int, ...] = ()
    kind: ClassVar[Kind] = "events"

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where the tokens of each sort begin, in their order; `end` is behind the last."""
        drums = any(voice.program == DRUMS for voice in self.voices)
        sizes = {
            "meter": len(self.meters),
            "bar": 1,
            "place": max(self.meters),
            "voice": len(self.voices),
            "pitch": self.span,
            "drum": 128 if drums else 0,
            "length": QUARTERS * self.steps,
            "end": 0,
        }
        starts = np.cumsum([1, *sizes.values()]).tolist()
        return dict(zip(sizes, starts, strict=False))

    @property
    def vocabulary(self) -> int:
        """All sorts."""
        return self.starts["end"]

    @cached_property
    def pitches(self) -> Pitches:
        """See `Notation`."""
        found = np.full(self.vocabulary, -1, dtype=np.int64)
        first = self.starts["pitch"]
        found[first : first + self.span] = np.arange(self.lowest, self.highest + 1)
        return found

    def encode(self, score: Score) -> list[int]:
        """See `Notation`; instruments and bars that are not known become those that are nearest."""
        score, starts = self.fitted(score), self.starts
        bar = min(self.meters, key=lambda meter: (abs(meter - score.bar), meter))
        places = [self._instrument(voice) for voice in score.voices]
        notes = sorted({(note.start, places[note.voice], note.pitch, note.length) for note in score.notes})
        tokens = [starts["meter"] + self.meters.index(bar)]
        at, place, voice = -1, -1, -1
        for start, own, pitch, length in notes:
            if start // bar > at:
                tokens += [starts["bar"]] * (start // bar - at)
                at, place, voice = start // bar, -1, -1
            if start % bar != place:
                place = start % bar
                tokens.append(starts["place"] + place)
            if own != voice and len(self.voices) > 1:
                voice = own
                tokens.append(starts["voice"] + own)
            drum = self.voices[own].program == DRUMS
            tokens.append(starts["drum"] + pitch if drum else starts["pitch"] + pitch - self.lowest)
            tokens.append(starts["length"] + min(length, QUARTERS * self.steps) - 1)
        return tokens + [starts["bar"]] * (-(-score.length // bar) - 1 - at)

    def _instrument(self, voice: Voice) -> int:
        """The known instrument that is nearest to one: the same, of its family of eight, or the first."""
        programs = [own.program for own in self.voices]
        if voice.program in programs:
            return programs.index(voice.program)
        tones = [place for place, own in enumerate(programs) if own != DRUMS] or [0]
        if voice.program == DRUMS:
            return 0
        return min(tones, key=lambda place: (programs[place] // 8 != voice.program // 8, place))

    def decode(self, tokens: Sequence[int]) -> Score:
        """See `Notation`; a note without a bar, a place or a length is left out."""
        bar, at, place, voice, pitch = self.bar, -1, None, 0, None
        notes: dict[tuple[int, int, int], Note] = {}
        for sort, value in self._read(tokens):
            if sort == "meter":
                bar = self.meters[value] if at < 0 else bar
            elif sort == "bar":
                at, place, voice, pitch = at + 1, None, 0, None
            elif sort == "place":
                place, pitch = value, None
            elif sort == "voice":
                voice, pitch = value, None
            elif sort in ("pitch", "drum"):
                fits = (self.voices[voice].program == DRUMS) == (sort == "drum")
                pitch = (value if sort == "drum" else self.lowest + value) if fits else None
            elif pitch is not None and place is not None and place < bar:
                start = max(at, 0) * bar + place
                notes.setdefault((start, voice, pitch), Note(start, voice, pitch, value + 1))
                pitch = None
        found = tuple(sorted(notes.values()))
        length = max([(at + 1) * bar, *(note.start + 1 for note in found)])
        return Score(found, self.voices, self.steps, length, bar, self.tempo)

    def _read(self, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
        """The sort of each token and its number among them."""
        names = list(self.starts)
        edges = np.array(list(self.starts.values()))
        for token in tokens:
            if END < token < self.vocabulary:
                place = int(np.searchsorted(edges, token, side="right")) - 1
                yield names[place], token - int(edges[place])


def fit(kind: Kind, scores: Sequence[Score], steps: int) -> Notation:
    """The notation of the training pieces `scores`; raises `UserError` if none of them has a tone."""
    tones = [note.pitch for score in scores for note in score.pitched]
    if not tones:
        raise UserError("None of the training pieces has a tone; add music with pitches.")
    lowest, highest = min(tones), max(tones)
    bars = Counter(min(score.bar, QUARTERS * steps) for score in scores)
    bar = bars.most_common(1)[0][0]
    tempo = round(median(score.tempo for score in scores), 3)
    if kind == "grid":
        return Grid(_common([score.voices for score in scores]), steps, bar, lowest, highest, tempo)
    programs = Counter(voice.program for score in scores for voice in score.voices)
    names = {voice.program: voice.name for score in reversed(scores) for voice in score.voices}
    voices = tuple(Voice(names[program], program) for program in sorted(programs))
    return Events(voices, steps, bar, lowest, highest, tempo, tuple(sorted(bars)))


def _common(found: Sequence[tuple[Voice, ...]]) -> tuple[Voice, ...]:
    """The voices of most pieces, by their number; those of the first piece that has so many."""
    (many, _), *_ = Counter(map(len, found)).most_common(1)
    return next(voices for voices in found if len(voices) == many)


def load_notation(folder: Path) -> Notation:
    """The notation in `folder`; raises `UserError` for a damaged file."""
    path = folder / NOTATION
    kinds: dict[str, type[Notation]] = {"grid": Grid, "events": Events}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = kinds[content.pop("notation")]
        content["voices"] = tuple(Voice(**voice) for voice in content["voices"])
        if "meters" in content:
            content["meters"] = tuple(content["meters"])
        wanted = {item.name for item in fields(kind)}
        return kind(**{name: content[name] for name in wanted})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged; prepare the data or fetch the model again.") from error
