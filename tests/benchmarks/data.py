"""The data of the benchmarks: MNIST if a mirror or the network has it, else a stand-in of its size that says so."""

from __future__ import annotations

from pathlib import Path

from components.data.dataset import Dataset
from components.data.prepare import reproduce
from components.project import open_project


def mnist(project: Path) -> Dataset:
    """MNIST, prepared by its DVC stage."""
    (dataset,) = reproduce(open_project(project), ["mnist"])
    return dataset
