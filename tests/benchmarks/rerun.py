"""The unchanged re-run of `genloom retrain`, as a whole command."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.row import Row


def run(project: Path) -> list[Row]:
    """The first run, and the median of three that follow."""
    first = retrain(project)
    again = sorted(retrain(project) for _ in range(3))[1]
    figures = {"first": first, "again": again}
    measured = f"{again:.1f} s, {first / again:.1f}× faster than the first ({first:.0f} s)"
    return [Row("`genloom retrain digits-vae` again, nothing changed", measured, "trains nothing", figures)]


def retrain(project: Path) -> float:
    """Seconds of one `genloom retrain digits-vae`."""
    began = time.perf_counter()
    genloom = Path(sys.executable).parent / "genloom"
    subprocess.run([genloom, "retrain", "digits-vae"], cwd=project, check=True, capture_output=True)
    return time.perf_counter() - began
