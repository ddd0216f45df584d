"""An artifact with a missing or altered file is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components import artifact
from components.errors import UserError
from components.families.family import Shape, kind_of

SHAPE = Shape(data=(1, 4, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    family = kind_of("vae")(latent=2, width=8, depth=0)
    about = artifact.About(
        product="p",
        run="r",
        dataset="d",
        revision="0",
        licence="CC0",
        source="made",
        classes=["a", "b"],
        modality="image",
        key="k",
        parameters={},
        commit="",
        dirty=False,
        steps=1,
    )
    artifact.save(tmp_path / "model", family, family.networks(SHAPE), SHAPE, about)
    return tmp_path / "model"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    model = artifact.load(folder)
    assert model.shape == SHAPE
    assert model.about.classes == ["a", "b"]
    assert model.digest == artifact.read_manifest(folder)["digest"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"], "no draft is left"


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / artifact.WEIGHTS).unlink(), "lacks the file networks.safetensors"),
        (lambda folder: flip(folder / artifact.WEIGHTS), "networks.safetensors was altered"),
        (lambda folder: truncate(folder / artifact.WEIGHTS), "networks.safetensors was altered"),
        (lambda folder: (folder / "model.json").unlink(), "no readable model.json"),
        (lambda folder: truncate(folder / "model.json"), "no readable model.json"),
        (lambda folder: edit(folder, "width", 64), "model.json was altered"),
        (lambda folder: edit(folder, "family", "gan"), "model.json was altered"),
        (lambda folder: edit(folder, "format", 99), "has format 99; this version reads 1"),
        (lambda folder: (folder / "model.json").write_text("[1]"), "no readable model.json"),
    ],
)
def test_harm_is_named(folder: Path, harm: object, sentence: str) -> None:
    harm(folder)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        artifact.load(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def edit(folder: Path, field: str, value: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
