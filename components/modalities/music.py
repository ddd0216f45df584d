"""Music: pieces as rows of tokens in Parquet, int64 for families, MIDI and WAV for people, piano rolls to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from components.errors import UserError
from components.families.family import NOTHING, Batch, Kind, Requests, Shape
from components.modalities.midi import write_midi
from components.modalities.modality import DRAW, Direction, Maker, Modality, Order
from components.modalities.notation import NOTATION, Notation, load_notation
from components.modalities.playing import MEDIA, Format, MusicRequest, answered, prime_of, to_requests
from components.modalities.roll import rolls
from components.modalities.score import Score
from components.modalities.strings import play
from components.modalities.text import Text

TRANSPOSE = "transpose"
"""The column that says by how many semitones a training row may be moved at most."""
FEATURES = ("pitch_class", "interval", "duration", "density")
"""The histograms of pieces that are compared."""
PROBED = 8
"""Pieces by which versions are compared, of so many bars."""
SHOWN = 8
"""Rolls in a picture of samples."""


class Music(Modality):
    """Rows of tokens of one notation: whole pieces beside each other, or windows of long ones."""

    name: ClassVar[str] = "music"
    makes: ClassVar[str] = "music"
    kind: ClassVar[Kind] = Kind.TOKENS
    request: ClassVar[type[BaseModel]] = MusicRequest
    media_type: ClassVar[str] = MEDIA["midi"]
    extension: ClassVar[str] = ".mid"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "nats_per_frame": "lower",
        "perplexity": "lower",
        **{f"{feature}_overlap": "higher" for feature in FEATURES},
        **{f"{feature}_divergence": "lower" for feature in FEATURES},
        "scale_consistency": "higher",
        "empty_bars": "lower",
        "repeated_bars": "lower",
        "longest_overlap": "lower",
        "copied": "lower",
    }
    assets: ClassVar[tuple[str, ...]] = (NOTATION,)

    @property
    def random(self) -> bool:
        """Training rows are moved to other keys, and those that are longer than the context cut, by chance."""
        return True

    @cached_property
    def notation(self) -> Notation:
        """The notation of the dataset or the artifact."""
        assert self.folder is not None, "music needs the folder of its notation"
        return load_notation(self.folder)

    @cached_property
    def _rows(self) -> Text:
        """Rows of tokens lie on disk, and are cut, as those of text."""
        return Text(self.folder)

    def check(self, shape: Shape) -> None:
        """Raise `UserError` if the notation has another number of tokens than the weights."""
        if self.notation.vocabulary != shape.vocabulary:
            raise UserError(
                f"The notation in {self.folder} has {self.notation.vocabulary} tokens and the weights have "
                f"{shape.vocabulary}; fetch or train the model again, with its own notation."
            )

    def agrees(self, other: Modality) -> bool:
        """Whether the notations are the same."""
        return isinstance(other, Music) and self.notation == other.notation

    def row_bytes(self, schema: pa.Schema) -> int:
        """Tokens are padded to the longest."""
        return self._rows.row_bytes(schema)

    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """As `Text.columns`, and in `lower` and `higher` [N] how far a row may be moved down and up, in semitones."""
        columns = self._rows.columns(table)
        for name in ("lower", "higher"):
            columns[name] = torch.from_numpy(table.column(name).to_numpy().astype(np.int64))
        return columns

    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """As `Text.batch`; a row of training is moved by as many semitones as `DRAW` chooses."""
        batch = self._rows.batch(columns)
        if DRAW not in columns:
            return batch
        lower, higher = columns["lower"], columns["higher"]
        # the remainder by a small number also decides where a long row is cut; the upper bits do not
        by = (columns[DRAW] >> 20) % (higher + lower + 1) - lower
        tones = torch.from_numpy(self.notation.pitches >= 0)
        moved = tones[batch.data.clamp(min=0)] & (batch.data != NOTHING)
        batch.data = torch.where(moved, batch.data + by[:, None], batch.data)
        return batch

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """The rows of pieces, behind their prime. Raises `UserError`."""
        _, primed = prime_of(body, self.notation)
        return to_requests(body, self.notation, model.shape, seeds, primed)

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """Pieces as MIDI or WAV files, as `body` says. Raises `UserError`."""
        prime, primed = prime_of(body, self.notation)
        return Order(
            requests=to_requests(body, self.notation, model.shape, seeds, primed),
            seeds=seeds,
            parts=[slice(place, place + 1) for place in range(len(seeds))],
            encode=lambda _, rows: written(
                answered(rows[0].tolist(), self.notation, primed, prime, body.bars), body.response_format
            ),
            labels=[None] * len(seeds),
            media_type=self.media(body),
        )

    def media(self, body: Any) -> str:
        """MIDI or WAV, as `body` says."""
        return MEDIA[body.response_format]

    def warm(self, shape: Shape) -> BaseModel:
        """A bar by all ways of sampling."""
        return MusicRequest(bars=1, temperature=0.9, top_p=0.9, seed=0)

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight pieces of eight bars as the model itself draws them."""
        return MusicRequest(n=PROBED, bars=PROBED, seed=seed)

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """One file a row, of the new tokens alone."""
        return [written(score, body.response_format) for score in self.scores(output)]

    def scores(self, output: Tensor) -> list[Score]:
        """The pieces of rows [N, T] of tokens, of which `NOTHING` is left out."""
        return [answered(row, self.notation, [], None, None) for row in output.tolist()]

    def picture(self, output: Tensor) -> bytes:
        """The piano rolls of the first rows below each other."""
        return rolls(self.scores(output[:SHOWN]))


def written(score: Score, kind: Format) -> bytes:
    """A score as a file."""
    return play(score) if kind == "wav" else write_midi(score)
