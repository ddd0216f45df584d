"""Audio: 16-bit recordings of one length in Parquet, companded floats for families, WAV for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from components import files as disk
from components.errors import UserError
from components.families.family import Batch, Kind, Requests, Shape
from components.modalities.image import grid
from components.modalities.modality import Direction, Maker, Modality, Order
from components.modalities.speech import SoundRequest, SpeechRequest, sounded, spoken, written
from components.modalities.waveform import FULL, compand, spectrogram, to_pcm

SOUND = "audio.json"
"""The file that says how many samples a second has."""
HEIGHT = 120
"""Pixels of a spectrogram in a picture of samples, about."""


class Audio(Modality):
    """Recordings with one channel, all of one length and rate; shorter ones end in silence."""

    name: ClassVar[str] = "audio"
    makes: ClassVar[str] = "sound"
    kind: ClassVar[Kind] = Kind.WAVEFORM
    request: ClassVar[type[BaseModel]] = SoundRequest
    media_type: ClassVar[str] = "audio/wav"
    extension: ClassVar[str] = ".wav"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "frechet_distance": "lower",
        "precision": "higher",
        "recall": "higher",
        "density": "higher",
        "coverage": "higher",
        "class_accuracy": "higher",
        "negative_elbo_nats": "lower",
        "importance_weighted_nats": "lower",
    }
    prefixes: ClassVar[tuple[str, ...]] = ("judge", "pca")
    assets: ClassVar[tuple[str, ...]] = (SOUND,)

    @cached_property
    def rate(self) -> int:
        """Samples a second; raises `UserError` for a damaged file."""
        assert self.folder is not None, "sound needs its folder"
        path = self.folder / SOUND
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["rate"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged; prepare the data or fetch the model again.") from error

    def agrees(self, other: Modality) -> bool:
        """Whether a second has as many samples."""
        return isinstance(other, Audio) and self.rate == other.rate

    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """`audio` int16 [N, T], and `label` int64 [N] where rows have classes."""
        (samples,) = json.loads(table.schema.metadata[b"genloom"])["shape"]
        parts = [_levels(chunk, samples) for chunk in table.column("audio").chunks]
        columns = {"audio": torch.from_numpy(np.concatenate(parts))}
        if "label" in table.column_names:
            columns["label"] = torch.from_numpy(table.column("label").to_numpy().astype(np.int64))
        return columns

    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """`data` companded float32 [N, T] in [−1, 1], with label where rows have it."""
        levels = columns["audio"]
        length = torch.full((len(levels),), levels.shape[1], dtype=torch.int64)
        return Batch(
            data=compand(levels.float().div(FULL).clamp(-1.0, 1.0)), length=length, label=columns.get("label")
        )

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """The rows of recordings. Raises `UserError`."""
        return sounded(body, model, seeds)

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """Recordings, or one file of several words, as `body` says. Raises `UserError`."""
        if isinstance(body, SpeechRequest):
            return spoken(body, model, self.rate, seeds)
        return super().order(body, model, seeds)

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight recordings."""
        return SoundRequest(seed=seed, n=8)

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """One WAV file a row."""
        return [written(row, self.rate, "wav") for row in to_pcm(output)]

    def picture(self, output: Tensor) -> bytes:
        """The spectrograms of all rows, low tones below."""
        return grid(spectrogram(output, self.rate).flip(2), target=HEIGHT)


def save_rate(folder: Path, rate: int) -> str:
    """Write what the modality needs into `folder`, and return the file's name."""
    disk.write(folder / SOUND, json.dumps({"rate": rate}))
    return SOUND


def schema(samples: int, rate: int, classes: Sequence[str], about: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of prepared recordings: `id` (sha256 of the content), `audio`, and `label` if classes.

    `audio` is `samples` 16-bit little-endian levels at `rate` Hz.
    """
    fields = [pa.field("id", pa.string()), pa.field("audio", pa.binary(2 * samples))]
    if classes:
        fields.append(pa.field("label", pa.int32()))
    content = {"modality": "audio", "shape": [samples], "rate": rate, "classes": list(classes), **about}
    return pa.schema(fields, metadata={"genloom": json.dumps(content, sort_keys=True)})


def _levels(array: pa.Array, samples: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The levels of one Arrow array as int16 [N, T], a view of its memory."""
    flat = np.frombuffer(array.buffers()[1], "<i2", len(array) * samples, array.offset * samples * 2)
    return flat.reshape(len(array), samples)
