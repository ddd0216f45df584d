"""Waveforms as families see them, and as people do: companding, 16-bit PCM, spectrograms."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

MU = 255
"""μ of the companding: what 8-bit telephony takes (ITU-T G.711)."""
FULL = 32_767
"""The largest level of 16-bit PCM that both signs have."""
FRAMES_A_SECOND = 80
MELS = 40
FLOOR_DB = -80.0
"""Below the loudest possible tone by so much, everything is silence."""


def compand(levels: Tensor) -> Tensor:
    """Amplitudes in [−1, 1] → sign(x) ln(1 + μ|x|) / ln(1 + μ), in which 8 bits are enough for speech.

    As van den Oord et al. 2016 (arXiv:1609.03499, section 2.2).
    """
    return levels.sign() * torch.log1p(MU * levels.abs()) / math.log1p(MU)


def expand(companded: Tensor) -> Tensor:
    """The inverse of `compand`; what lies beyond ±1 is cut off."""
    values = companded.float().clamp(-1.0, 1.0)
    return values.sign() * torch.expm1(values.abs() * math.log1p(MU)) / MU


def to_pcm(companded: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """Companded floats [N, T] as 16-bit levels [N, T], rounded to the nearest."""
    levels: np.ndarray[tuple[int, ...], np.dtype[np.int16]] = (
        (expand(companded.detach().cpu()) * FULL).round().to(torch.int16).numpy()
    )
    return levels


def spectrogram(companded: Tensor, rate: int) -> Tensor:
    """Companded floats [N, T] at `rate` Hz → mel power in decibels from −1 (silence) to 1, [N, 1, 40, frames].

    Frames of about 32 ms (23 to 43, by the rate) by a Hann window, about 80 a second; the mel scale is
    O'Shaughnessy's, 2595 log₁₀(1 + f/700).
    """
    window, hop = _window(rate), max(1, rate // FRAMES_A_SECOND)
    found = torch.stft(
        expand(companded),
        window,
        hop,
        window=torch.hann_window(window, device=companded.device),
        return_complex=True,
        pad_mode="constant",
    )
    power = _mels(rate).to(companded.device) @ found.abs().square() / (window / 4) ** 2
    decibels = 10 * power.clamp(min=10 ** (FLOOR_DB / 10)).log10()
    return (1 - 2 * decibels / FLOOR_DB).clamp(-1.0, 1.0)[:, None]


def _window(rate: int) -> int:
    """The samples of a frame: the power of two next to 32 ms."""
    return 1 << max(4, round(math.log2(0.032 * rate)))


@cache
def _mels(rate: int) -> Tensor:
    """Triangles evenly apart on the mel scale, [MELS, bins]; each frequency's share of a band, at most 1."""
    bins = torch.linspace(0, rate / 2, _window(rate) // 2 + 1)
    edges = torch.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), MELS + 2)
    centres = 700 * (10 ** (edges / 2595) - 1)
    low, middle, high = centres[:-2, None], centres[1:-1, None], centres[2:, None]
    # a band narrower than a bin takes the bin's share, so that none of them is always silent
    width = rate / _window(rate)
    rising, falling = (
        (bins - low) / (middle - low).clamp(min=width),
        (high - bins) / (high - middle).clamp(min=width),
    )
    return torch.minimum(rising, falling).clamp(0.0, 1.0)
