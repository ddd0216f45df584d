"""The device that trains and measures: the first GPU where there is one, else the CPU."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """What this process computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
