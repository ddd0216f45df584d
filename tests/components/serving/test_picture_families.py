"""Every family of pictures behind the routes, for every task that it can do."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from components.families.family import Kind, Shape, Task, kind_of, names
from components.modalities.conditions import Conditions
from components.modalities.corruption import Corruption
from components.modalities.drawing import options_of
from components.modalities.editing import encodes
from components.serving.catalog import Catalog
from components.serving.routes.application import create_app
from tests.components.families.rows import IMAGES
from tests.components.serving.painter import opened, saved, served

FAMILIES = [name for name in names() if Kind.IMAGE in kind_of(name).kinds]
CASES = [(name, task) for name in FAMILIES for task in Task if task in kind_of(name).tasks]


OPTIONS = {"guidance": 2.0, "truncation": 0.5, "steps": 3}


def test_options_are_those_that_families_read() -> None:
    found = {name: set(options_of(kind_of(name)(), Shape(data=(1, 8, 8), classes=2))) for name in FAMILIES}
    assert {name: own for name, own in found.items() if own} == {
        "diffusion": {"steps", "guidance"},
        "stylegan2": {"truncation"},
        "vqvae": {"guidance"},
    }


def conditions(shape: Shape) -> Conditions:
    if shape.source is None:
        return Conditions()
    return Conditions(Corruption("mask", 0.3) if shape.source[0] > shape.data[0] else Corruption("pairs"))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_family_answers_for_every_task(name: str, task: Task, tmp_path: Path) -> None:
    for place, shape in enumerate(IMAGES[task]):
        family = kind_of(name)(**kind_of(name).small)
        loaded = served(tmp_path, f"model-{place}", family, shape, conditions(shape))
        with TestClient(create_app(Catalog({"model": loaded}))) as client:
            (listed,) = client.get("/v1/models").json()["data"]
            assert listed["task"] == task
            for route in listed["routes"]:
                body = asked(route, shape, listed)
                answer = client.post(route, json=body)
                assert answer.status_code == 200, answer.text
                again = client.post(route, json=body).json()["data"]
                files = [base64.b64decode(item["b64_json"]) for item in again]
                assert files == [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]
                assert {opened(file).shape[:2] for file in files} == {shape.data[1:]}
                stream = client.post(route, json={**body, "stream": True})
                assert stream.text.count(".completed\n") == len(files)
    assert ("/v1/images/variations" in listed["routes"]) == (encodes(family) and task is not Task.SOURCE)


def asked(route: str, shape: Shape, listed: dict[str, Any]) -> dict[str, Any]:
    """A request with all that the model can be asked."""
    label = {"label": listed["classes"][1]} if listed["classes"] else {}
    body: dict[str, Any] = {"n": 2, "seed": 5, **label}
    if route == "/v1/images/generations":
        return body | {name: value for name, value in OPTIONS.items() if name in listed["options"]}
    height, width = shape.data[1:]
    levels = np.full((height, width, 4), 200, dtype=np.uint8)
    levels[:, : width // 2, :3] = 30
    image = base64.b64encode(saved(levels)).decode()
    if listed.get("source", {}).get("kind") != "mask":
        return {**body, "image": image}
    levels[2:5, 2:6, 3] = 0
    return {**body, "image": image, "mask": base64.b64encode(saved(levels)).decode()}


EDITS = [
    ("pix2pix", Corruption("noise", 25), (1, 8, 8), 1, (8, 8)),
    ("pix2pix", Corruption("shrink", 2), (1, 8, 8), 1, (4, 4)),
    ("pix2pix", Corruption("grey"), (3, 8, 8), 1, (8, 8)),
    ("cyclegan", Corruption("unpaired"), (3, 8, 8), 3, (8, 8)),
]


@pytest.mark.parametrize(("name", "corruption", "data", "channels", "sent"), EDITS)
def test_what_spoils_a_picture_decides_how_one_is_sent_and_comes_back(
    name: str,
    corruption: Corruption,
    data: tuple[int, int, int],
    channels: int,
    sent: tuple[int, int],
    tmp_path: Path,
) -> None:
    """Noise is taken away, small pictures are enlarged, grey ones coloured, and styles changed, by real families."""
    shape = Shape(data=data, source=(channels, *data[1:]))
    loaded = served(tmp_path, "model", kind_of(name)(**kind_of(name).small), shape, Conditions(corruption))
    levels = np.random.default_rng(0).integers(0, 256, (*sent, channels), dtype=np.uint8)
    image = base64.b64encode(saved(levels.squeeze(2) if channels == 1 else levels)).decode()
    with TestClient(create_app(Catalog({"model": loaded}))) as client:
        (listed,) = client.get("/v1/models").json()["data"]
        assert listed["source"]["kind"] == corruption.kind
        answer = client.post("/v1/images/edits", json={"image": image, "seed": 5})
    assert answer.status_code == 200, answer.text
    drawn = opened(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert drawn.shape[:2] == data[1:]
    assert (drawn.ndim == 3 and drawn.shape[2] == 3) == (data[0] == 3)
