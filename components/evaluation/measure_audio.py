"""Sound: measured as pictures are, on spectrograms, and given to people to see and to hear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.featured import FeatureMeasurement
from components.evaluation.image import eight_bit
from components.evaluation.measurement import Subject
from components.evaluation.view import View
from components.modalities.audio import HEIGHT, Audio
from components.modalities.speech import together, written
from components.modalities.waveform import FULL, compand, spectrogram, to_pcm

LEVELS, WIDEST = 2**20, 64
"""The levels, and the rows, that the model computes at once, the same for all models."""
HEARD = 10
"""Samples in `samples.wav`."""


class Spectrograms(View):
    """Companded waveforms [N, T] at `rate` Hz by their spectrograms, [N, 1, bands, frames]."""

    name: ClassVar[str] = "spectrogram"
    target: ClassVar[int] = HEIGHT

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def of(self, data: Tensor) -> Tensor:
        """The spectrograms."""
        return spectrogram(data, self.rate)

    def shown(self, data: Tensor) -> Tensor:
        """The spectrograms, low tones below."""
        return self.of(data).flip(2)

    def rounded(self, data: Tensor) -> Tensor:
        """Rounded to the 16 bits that a client's file and real rows have."""
        return compand(torch.from_numpy(to_pcm(data)).float().div(FULL))

    def binned(self, data: Tensor) -> Tensor:
        """Companded to 8 bits, whose likelihood families give."""
        return eight_bit(data)


class AudioMeasurement(FeatureMeasurement):
    """Distances between features of spectrograms, and whether a class is heard where it was asked for."""

    name: ClassVar[str] = "audio"

    def viewed(self, dataset: Dataset) -> View:
        """Spectrograms at the rate of the recordings."""
        assert isinstance(dataset.tensors, Audio)
        self.rate = dataset.tensors.rate
        return Spectrograms(self.rate)

    def at_once(self) -> int:
        """Fewer where recordings are long."""
        (samples,) = self.dataset.shape.data
        return max(1, min(WIDEST, LEVELS // samples))

    @property
    def measured_at_once(self) -> int:
        """As many as are drawn at once."""
        return self.width

    def files(self, subject: Subject, shown: Tensor) -> Mapping[str, bytes]:
        """Spectrograms to look at, and the first samples to hear, one after the other."""
        heard = written(together(to_pcm(shown[:HEARD]), self.rate), self.rate, "wav")
        return {**super().files(subject, shown), "samples.wav": heard}
