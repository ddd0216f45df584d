"""The body that asks for music, and how it becomes rows of tokens: the length, the beginning that is to go on."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from components.errors import UserError
from components.families.family import END, NOTHING, Requests, Shape
from components.modalities.midi import LARGEST, read_midi
from components.modalities.notation import Grid, Notation
from components.modalities.score import NotMusic, Score

Format: TypeAlias = Literal["midi", "wav"]
MEDIA: Mapping[Format, str] = {"midi": "audio/midi", "wav": "audio/wav"}
BARS = 4096
"""The most bars that a request may name."""


class MusicRequest(BaseModel):
    """What the general route takes for a model of music: `n` pieces, of at most `bars` bars.

    `prime` is a MIDI file as Base64, which each piece begins with. A WAV is played on plucked strings.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    bars: int | None = Field(default=None, ge=1, le=BARS)
    prime: str | None = Field(default=None, max_length=LARGEST // 3 * 4 + 4)
    response_format: Format = "midi"
    user: str | None = None


def prime_of(body: MusicRequest, notation: Notation) -> tuple[Score | None, list[int]]:
    """The piece to go on with and its tokens; None and none without one. Raises `UserError`."""
    if body.prime is None:
        return None, []
    try:
        content = b64decode(body.prime, validate=True)
    except ValueError as error:  # binascii's is one, and so is that for letters beyond ASCII
        raise UserError("“prime” is no Base64; send the bytes of a MIDI file so.") from error
    try:
        score = read_midi(content, notation.steps)
        return score, notation.encode(score)
    except NotMusic as reason:
        wanted = (
            f"{len(notation.voices)} tracks of one note at a time each ({', '.join(v.name for v in notation.voices)})"
            if isinstance(notation, Grid)
            else "notes"
        )
        raise UserError(
            f"“prime” cannot be continued ({reason}); send a MIDI file with {wanted}."
        ) from reason


def to_requests(
    body: MusicRequest, notation: Notation, shape: Shape, seeds: Sequence[int], primed: Sequence[int]
) -> Requests:
    """One row a seed, behind the tokens `primed`; of too many for the context, the last half of it."""
    context = shape.data[0]
    prompt = [END, *primed]
    if len(prompt) > context // 2:
        prompt = prompt[-(context // 2) :]
    left = context - len(prompt)
    wanted = _wanted(body.bars, notation, left)
    rows = len(seeds)
    return Requests(
        seed=torch.tensor(list(seeds), dtype=torch.int64),
        prompt=torch.tensor([prompt] * rows, dtype=torch.int64),
        options={
            "max_tokens": torch.full((rows,), wanted, dtype=torch.int64),
            "temperature": torch.full((rows,), body.temperature, dtype=torch.float32),
            "top_p": torch.full((rows,), body.top_p, dtype=torch.float32),
        },
    )


def _wanted(bars: int | None, notation: Notation, left: int) -> int:
    """How many tokens to draw: of a grid whole steps; how many so many bars of events have, nobody knows before."""
    if not isinstance(notation, Grid):
        return left
    voices = len(notation.voices)
    whole = left // voices * voices
    return whole if bars is None else min(whole, bars * notation.bar * voices)


def answered(
    output: Sequence[int], notation: Notation, primed: Sequence[int], prime: Score | None, bars: int | None
) -> Score:
    """The piece out of a row of new tokens, behind its prime, of at most `bars` new bars."""
    tokens = [token for token in output if token != NOTHING]
    score = notation.decode([*primed, *tokens])
    before = 0 if prime is None else notation.decode(list(primed)).length
    if bars is not None:
        score = score.cut(0, before + bars * score.bar)
    return score if prime is None else replace(score, tempo=prime.tempo)
