"""What decides the weights of a training is in its key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.families.family import names
from components.train import key


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources, which may be changed."""
    copy = tmp_path / "components"
    shutil.copytree(key.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(key, "ROOT", copy)
    return copy


@pytest.mark.parametrize("file", ["train/step.py", "families/layers/product.py", "families/layers/onednn.py"])
def test_what_every_training_runs_through_is_in_every_key(file: str, sources: Path) -> None:
    before = {name: key.sources_hash(name, "image") for name in names()}
    with (sources / file).open("a") as written:
        written.write("# another\n")
    for name in names():
        assert key.sources_hash(name, "image") != before[name], name


def test_what_only_generates_is_in_none(sources: Path) -> None:
    before = {name: key.sources_hash(name, "image") for name in names()}
    with (sources / "families" / "layers" / "packed.py").open("a") as written:
        written.write("# another\n")
    assert {name: key.sources_hash(name, "image") for name in names()} == before
