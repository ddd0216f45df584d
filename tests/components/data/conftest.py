"""Pictures and projects for the tests of data."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from components.project import Project, open_project

Bare = Callable[[dict[str, Any]], Project]


def noise(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """A picture that no other seed has; `size` is (width, height)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Write PNG files of noise: `draw(folder, seeds)`."""

    def draw(folder: Path, seeds: range) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            noise(seed).save(folder / f"{seed:04d}.png")
        return folder

    return draw


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """The bytes of a PNG of noise."""

    def png(seed: int) -> bytes:
        stream = io.BytesIO()
        noise(seed).save(stream, "PNG")
        return stream.getvalue()

    return png


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bare:
    """A project with these datasets, without DVC."""

    def bare(datasets: dict[str, Any]) -> Project:
        root = tmp_path / "bare"
        root.mkdir(exist_ok=True)
        with (root / "params.yaml").open("w") as stream:
            YAML().dump({"datasets": datasets}, stream)
        monkeypatch.chdir(root)
        return open_project(root)

    return bare
