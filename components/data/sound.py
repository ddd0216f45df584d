"""Sound files of any rate and any number of channels as 16-bit clips of one rate and length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from components.audio_rows import AudioRow
from components.data.example import NotARecording, Pixels
from components.modalities.waveform import FULL

Levels = np.ndarray[Any, np.dtype[np.floating[Any]]]
"""Amplitudes, [T]; 1 is full scale."""
PEAK = 0.9
"""The peak of a normalized clip, of full scale."""
LONGEST = 600
"""Seconds; what is longer is no recording of one thing, and is left out."""
RATES = (1_000, 384_000)
CHANNELS = 8
"""The most channels that are read. With `RATES` it bounds the memory that a file can ask for."""
BLOCK = 2**18
"""Frames of all channels that are held at once."""
UNRECOGNISED = (1, 4)
"""libsndfile's codes for a format, or an encoding in it, that it does not know."""
UNKNOWN = 2**62
"""From so many frames on a file does not say how many it has."""
TAPS = 10
"""What `resample_poly` looks at on either side of a sample, in periods of the lower rate."""


def read_clip(data: Path | bytes, row: AudioRow) -> tuple[Pixels, bool]:
    """The start of a recording as `row` wants it, and whether it was cut; raises `NotARecording` with the reason.

    Channels are averaged and other rates resampled. A clip is int16 little-endian, as the bytes uint8 [1, 1, 2·T].
    """
    levels, rate = _read(data, row)
    levels = resampled(levels, rate, row.rate)
    return clip(levels, row), len(levels) > row.samples


def clip(levels: Levels, row: AudioRow) -> Pixels:
    """Amplitudes of any length at the rate of `row` as a clip; raises `NotARecording` for what has no peak."""
    kept = np.zeros(row.samples)
    part = levels[: row.samples]
    kept[: len(part)] = part
    if not np.isfinite(kept).all():
        raise NotARecording("a recording with levels that are no numbers")
    if row.normalize:
        peak = np.abs(kept).max()
        if round(peak * FULL) == 0:
            raise NotARecording("silence as far as it is kept")
        kept *= PEAK / peak
    whole = (kept * FULL).round().clip(-FULL, FULL).astype("<i2")
    return whole.view(np.uint8).reshape(1, 1, -1)


def resampled(levels: Levels, rate: int, wanted: int) -> Levels:
    """Amplitudes at `rate` Hz as they are at `wanted` Hz, through a low-pass filter of linear phase."""
    if rate == wanted:
        return levels
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    found: Levels = resample_poly(levels, wanted // common, rate // common)
    return found


def seconds_of(data: Path | bytes) -> float:
    """How long a recording is; raises `NotARecording` with the reason."""
    with _opened(data) as sound:
        return float(sound.frames / sound.samplerate)


def _read(data: Path | bytes, row: AudioRow) -> tuple[Levels, int]:
    """The mean of the channels as far as `row` needs it, float32 [frames], and its rate."""
    with _opened(data) as sound:
        rate = sound.samplerate
        beyond = TAPS * max(rate, row.rate) / row.rate + 1
        needed = math.ceil(row.samples * rate / row.rate + beyond)
        blocks = sound.blocks(BLOCK, frames=needed, dtype="float32", always_2d=True)
        parts = [block.mean(axis=1) for block in blocks]
    if not sum(map(len, parts)):
        raise NotARecording("an empty recording")
    return np.concatenate(parts), rate


class _Bytes(BytesIO):
    """Bytes that stay where they are when a damaged header leads before their beginning."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, if it is one."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@contextmanager
def _opened(data: Path | bytes) -> Iterator[soundfile.SoundFile]:
    """The file, if it is one that may be read; raises `NotARecording`."""
    try:
        with (
            _Bytes(data) if isinstance(data, bytes) else data.open("rb") as stream,
            # by its number, libsndfile reads a file itself, whatever it is called
            soundfile.SoundFile(
                stream if isinstance(stream, _Bytes) else stream.fileno(), closefd=False
            ) as sound,
        ):
            reason = _refused(sound)
            if reason:
                raise NotARecording(reason)
            yield sound
    except soundfile.LibsndfileError as error:
        broken = error.code not in UNRECOGNISED
        raise NotARecording(
            "a broken recording" if broken else "no recording in a format that can be read"
        ) from error
    except OSError as error:
        raise NotARecording(f"a broken recording: {error.strerror or type(error).__name__}") from error


def _refused(sound: soundfile.SoundFile) -> str | None:
    """Why a file is not read, if it is not."""
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        return "a recording of a rate that is not read"
    if sound.channels > CHANNELS:
        return f"a recording of more than {CHANNELS} channels"
    if LONGEST * sound.samplerate < sound.frames < UNKNOWN:
        return f"a recording of more than {LONGEST // 60} minutes"
    return None
