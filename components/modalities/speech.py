"""The bodies that ask for sound, how they become rows for a family, and rows become files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import soundfile
import torch
from pydantic import BaseModel, ConfigDict, Field

from components.errors import UserError, unknown
from components.families.family import Requests
from components.families.sampling import mix
from components.modalities.drawing import Label, labels_of, options_for
from components.modalities.modality import Maker, Order
from components.modalities.waveform import FULL, to_pcm

Format: TypeAlias = Literal["mp3", "opus", "flac", "wav", "pcm"]
MEDIA: Mapping[Format, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
FILES: Mapping[Format, Mapping[str, str]] = {
    "mp3": {"format": "MP3"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "wav": {"format": "WAV", "subtype": "PCM_16"},
}
"""What libsndfile calls them."""
WORDS = 64
"""The most words of a request for speech."""
LEVELS = 2**25
"""The most samples of all answers of a request together."""
MARKS = ".,!?;:"
QUIET = FULL // 100
"""Levels below are silence where words are put together: 40 dB under full scale."""
PAUSE = 0.1
"""Seconds between two words."""
Pcm: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int16]]


class SoundRequest(BaseModel):
    """What the general route takes for a model of sound: `n` recordings, of a class where the model knows such."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    label: Label | None = None
    prompt: str = Field(default="", max_length=4096)
    guidance: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    user: str | None = None


class SpeechRequest(BaseModel):
    """The body of OpenAI's `POST /v1/audio/speech`; `seed`, `guidance` and `temperature` are ours.

    `input` is words that are classes of the model, spoken one after the other. There is one voice: that of the
    recordings; whatever name a client must give it is taken. Fields whose value asks for what is not done are refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str = Field(min_length=1, max_length=4096)
    model: str | None = None
    voice: str = Field(default="default", max_length=64)
    response_format: Format = "mp3"
    speed: float = Field(default=1, ge=1, le=1)
    stream_format: Literal["audio"] = "audio"
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    guidance: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)

    @property
    def n(self) -> int:
        """One file, however many words there are."""
        return 1


def sounded(body: SoundRequest, model: Maker, seeds: Sequence[int]) -> Requests:
    """One row a seed, with the class and the options that the model takes. Raises `UserError`."""
    check_levels(len(seeds), model)
    return Requests(
        seed=torch.tensor(list(seeds), dtype=torch.int64),
        label=labels_of(body.label, body.prompt, model, seeds),
        options=options_for(body, model, len(seeds)),
    )


def spoken(body: SpeechRequest, model: Maker, rate: int, seeds: Sequence[int]) -> Order:
    """A row for each word of the input, together one file. Raises `UserError` for a word that is no class."""
    if not model.shape.classes:
        raise UserError("This model knows no words; ask it at /v1/generations.")
    words = spelled(body.input, model.classes)
    if not words:
        raise UserError("“input” holds no word; send some that are classes of the model.")
    if len(words) > WORDS:
        raise UserError(f"“input” has {len(words)} words and may have {WORDS}; send it in parts.")
    check_levels(len(words), model)
    written(
        np.zeros(rate, dtype=np.int16), rate, body.response_format
    )  # a format without this rate is told now
    (seed,) = seeds
    requests = Requests(
        seed=torch.tensor([mix(seed, place) for place in range(len(words))], dtype=torch.int64),
        label=torch.tensor(words, dtype=torch.int64),
        options=options_for(body, model, len(words)),
    )
    return Order(
        requests=requests,
        seeds=seeds,
        parts=[slice(0, len(words))],
        encode=lambda _, rows: written(together(to_pcm(rows), rate), rate, body.response_format),
        labels=[None],
        media_type=MEDIA[body.response_format],
    )


def check_levels(rows: int, model: Maker) -> None:
    """Raise `UserError` if `rows` recordings are too much for one request."""
    levels = rows * model.shape.data[0]
    if levels > LEVELS:
        raise UserError(
            f"The answers would have {levels:,} samples ({rows} of {model.shape.data[0]:,}) and may have {LEVELS:,} "
            "together; ask for fewer."
        )


def spelled(text: str, classes: Sequence[str]) -> list[int]:
    """The classes whose names `text` says, in order; of several that fit, the longest. Raises `UserError`.

    Names are found as they are, or else without the marks around words, or else in any case.
    """
    names = [
        {how(name.split()): place for place, name in reversed([*enumerate(classes)])} for how in READINGS
    ]
    longest, found, parts = max(map(len, names[0])), list[int](), text.split()
    while parts:
        size, place = _first_of(parts, names, longest)
        if place is not None:
            found.append(place)
        elif len(apart := re.sub(f"[{MARKS}]", " ", parts[0]).split()) > 1:
            parts[:1], size = apart, 0  # as in one,two
        elif parts[0].strip(MARKS):
            raise unknown("class", parts[0].strip(MARKS), classes)
        parts = parts[size:]
    return found


def _first_of(
    parts: Sequence[str], names: Sequence[Mapping[tuple[str, ...], int]], longest: int
) -> tuple[int, int | None]:
    """How many of the first `parts` are the name of a class, and of which; one and None where none are."""
    for size in range(min(longest, len(parts)), 0, -1):
        for known, how in zip(names, READINGS, strict=True):
            said = how(parts[:size])
            if any(said) and said in known:
                return size, known[said]
    return 1, None


def _bare(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.strip(MARKS) for word in words)


def _plain(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.casefold() for word in _bare(words))


READINGS: Sequence[Callable[[Sequence[str]], tuple[str, ...]]] = (tuple, _bare, _plain)
"""How words are read, the nearest to what was sent first."""


def together(words: Pcm, rate: int) -> Pcm:
    """Rows [N, T] behind each other with a short pause between them, [S]; the silence at their ends is left out."""
    parts: list[Pcm] = []
    pause = np.zeros(round(PAUSE * rate), dtype=np.int16)
    for row in words:
        loud = np.flatnonzero(np.abs(row.astype(np.int32)) >= QUIET)
        parts += [pause, row[loud[0] : loud[-1] + 1]] if len(loud) else [pause]
    return np.concatenate(parts[1:] or [pause])


def written(levels: Pcm, rate: int, kind: Format) -> bytes:
    """One channel of 16-bit levels [S] as a file; of `pcm`, little-endian levels without a header.

    Raises `UserError` for a format that has not this rate.
    """
    if kind == "pcm":
        return levels.astype("<i2").tobytes()
    stream = io.BytesIO()
    try:
        soundfile.write(stream, levels, rate, **FILES[kind])
    except soundfile.LibsndfileError as error:
        raise UserError(f"A file of “{kind}” cannot have {rate} samples a second; ask for wav.") from error
    return stream.getvalue()
