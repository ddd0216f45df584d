"""The devices: training and measuring take the first GPU where there is one, serving takes what a replica was given."""

from __future__ import annotations

from typing import Literal

import torch

Device = Literal["cpu", "cuda"]
"""A kind of device, on which the bits of what is generated depend; "cuda" is the first GPU that a process sees."""


def device() -> torch.device:
    """What this process computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def kind(place: torch.device) -> Device:
    """The kind of a device."""
    return "cuda" if place.type == "cuda" else "cpu"


def there(wanted: Device) -> bool:
    """Whether torch has this device here."""
    return wanted == "cpu" or torch.cuda.is_available()


def repeatable(wanted: Device) -> None:
    """Let a GPU compute by kernels that give the same bits each time, whatever ran before; the CPU's do."""
    if wanted == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
