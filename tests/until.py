"""Wait until something is so, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(holds: Callable[[], Any], patience: float = 120.0, told: Callable[[], object] = str) -> float:
    """Ask `holds` again and again; the seconds that it took. Past `patience` the test fails with what `told` says."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < patience, told()
        time.sleep(0.01)
    return time.monotonic() - began
