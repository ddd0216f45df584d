"""Music for the command line: MIDI files, by the running server or a model loaded here; their sound and look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import files
from components.errors import UserError
from components.labels.formats import PNG, WAV
from components.modalities.midi import read_midi
from components.modalities.roll import rolls
from components.modalities.score import NotMusic
from components.modalities.strings import play
from components.serving import draw
from components.serving.draw import RECORD, Drawing, Target, content
from components.serving.place import Place

KINDS = (".mid", ".midi")
MADE = {".wav": WAV, ".png": PNG}
"""The kinds of files that are made of a piece."""


def check_target(out: Path, number: int) -> Target:
    """Where pieces will be written: one file, or a folder. Raises `UserError`."""
    target = draw.check_target(out, KINDS, "pieces")
    if number > 1 and not target.folder:
        raise UserError(
            f"{number} pieces do not go into one file; name a folder, such as -o {out.with_suffix('')}."
        )
    return target


def compose(
    place: Place, number: int, seed: int | None, asked: Mapping[str, Any], prime: Path | None
) -> Drawing:
    """`number` pieces as `asked` says, each going on from `prime`. Raises as `draw` does."""
    given = {} if prime is None else {"prime": content(prime, "a MIDI file")}
    return draw.draw(place, number, seed, {**asked, **given}, RECORD, ".mid")


def write(place: Place, target: Target, drawing: Drawing, prime: Path | None) -> list[Path]:
    """Write the pieces, and beside each what it sounds and looks like; the paths of the MIDI files.

    Raises `UserError` before anything is written if a file would replace the `prime`.
    """
    paths = draw.write(target, drawing, [] if prime is None else [prime])
    for path, file, seed in zip(paths, drawing.files, drawing.seeds, strict=True):
        for suffix, made in _beside(file, int(place.about["steps"])).items():
            marked = made if drawing.marker is None else drawing.marker.mark(made, MADE[suffix], seed)[0]
            files.write(path.with_suffix(suffix), marked)
    return paths


def _beside(file: bytes, steps: int) -> dict[str, bytes]:
    """The sound and the roll of a MIDI file; none of a piece of silence."""
    try:
        score = read_midi(file, steps)
    except NotMusic:
        return {}
    return {".wav": play(score), ".png": rolls([score])}
