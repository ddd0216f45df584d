"""Sound for the command line: recordings, or words in one file; by the running server, or by a model loaded here."""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from components.errors import FailedError, UserError
from components.modalities.speech import SpeechRequest, together, written
from components.serving import client
from components.serving.catalog import SEEDS, Withheld
from components.serving.draw import RECORD, Drawing, Target, body_of, check_version, draw, held_back, what_of
from components.serving.marking import marked
from components.serving.place import Place
from components.serving.routes.models import SPEAK

KINDS = (".wav", ".mp3", ".flac", ".opus", ".pcm")
"""The ends of the files that words may be written to."""


def record(place: Place, number: int, seed: int | None, asked: Mapping[str, Any]) -> Drawing:
    """`number` recordings as `asked` says (label, guidance). Raises as `draw` does."""
    return draw(place, number, seed, asked, RECORD, ".wav")


def joined(recordings: Sequence[bytes]) -> bytes:
    """WAV files of one rate behind each other in one."""
    found = [soundfile.read(io.BytesIO(file), dtype="int16") for file in recordings]
    return written(together(np.stack([levels for levels, _ in found]), found[0][1]), found[0][1], "wav")


def speak(place: Place, text: str, seed: int | None, kind: str, guidance: float | None) -> Drawing:
    """The words of `text` in one file of a `kind` such as .mp3. Raises as `draw` does."""
    if SPEAK not in place.about["routes"]:
        raise UserError(f"{place.product} knows no words; leave --prompt out.")
    first = secrets.randbelow(SEEDS) if seed is None else seed
    given = {"input": text, "response_format": kind.removeprefix("."), "seed": first}
    body = body_of(SpeechRequest, given if guidance is None else {**given, "guidance": guidance})
    name = f"{place.product}-{place.version}-{first}{kind}"
    return Drawing(
        product=place.product,
        version=place.version,
        where=place.where,
        seed=first,
        files=[_spoken(place, body)],
        names=[name],
        seeds=[first],
        labels=[None],
        withheld={},
        what=what_of(place),
        marker=place.marker,
    )


def _spoken(place: Place, body: SpeechRequest) -> bytes:
    """The file; raises `FailedError` if the server does not let it out."""
    if place.loaded is not None:
        (file,), order = place.loaded.generate(body)
        return marked(place.loaded, file, order.seeds[0], order.media_type)
    assert place.url is not None
    try:
        content, version = client.file(
            place.url, SPEAK, {"model": place.asked, **body.model_dump(exclude_none=True)}
        )
    except client.WithheldError as error:
        told = held_back(place.product, {0: Withheld.of(str(error)).reason}, 0, what_of(place))
        raise FailedError(f"{told}; ask with another --seed.") from error
    check_version(place, version)
    return content


def target_kind(target: Target) -> str:
    """What kind of file is asked for, WAV for a folder."""
    return ".wav" if target.folder else target.path.suffix.lower()
