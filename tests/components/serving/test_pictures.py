"""What people do with pictures: the `openai` package, unmodified, and the command, by a real server and without it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from components.artifact import WIDTH
from components.data.folder import open_folder
from components.image_rows import FolderRow
from components.serving import server
from tests.components.serving.asking import hang_up, steps, waiting
from tests.components.serving.painter import CLASSES, opened, saved
from tests.until import until

SIZE = (20, 27)
HOLE = (slice(4, 11), slice(3, 12))


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(saved(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)))
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    levels = np.full((*SIZE, 4), 255, dtype=np.uint8)
    levels[(*HOLE, 3)] = 0
    path = tmp_path / "mask.png"
    path.write_bytes(saved(levels))
    return path


def files(answer: Any) -> list[bytes]:
    return [base64.b64decode(item.b64_json) for item in answer.data]


def test_pictures_by_class_plain_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "kinds", "prompt": "owl", "size": "16x16"}
    more = {"seed": 7, "steps": 6, "guidance": 2.0}
    (plain,) = files(client.images.generate(**asked, extra_body=more))
    events = list(client.images.generate(**asked, stream=True, partial_images=2, extra_body=more))
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    drawn = [base64.b64decode(event.b64_json) for event in events]
    assert drawn[-1] == plain
    assert len(set(drawn)) == 3
    assert [event.partial_image_index for event in events if event.type.endswith("partial_image")] == [0, 1]
    with pytest.raises(openai.BadRequestError, match="There is no class “owls”; did you mean owl"):
        client.images.generate(model="kinds", prompt="owls")


def test_a_hole_is_filled(client: openai.OpenAI, picture: Path, mask: Path) -> None:
    with picture.open("rb") as image, mask.open("rb") as clear:
        answer = client.images.edit(model="holes", image=image, mask=clear, prompt="", n=2)
    known = np.ones(SIZE, dtype=bool)
    known[HOLE] = False
    sent = opened(picture.read_bytes())
    for file in files(answer):
        assert np.array_equal(opened(file)[known], sent[known])
        assert not np.array_equal(opened(file), sent)
    several = client.images.edit(
        model="holes", image=[picture.read_bytes()] * 2, mask=mask.read_bytes(), prompt="", stream=True
    )
    assert [event.type for event in several] == ["image_edit.completed"] * 2
    with pytest.raises(openai.BadRequestError, match="nothing is marked to be filled"):
        client.images.edit(model="holes", image=picture.read_bytes(), prompt="")


def test_variations_of_a_picture(client: openai.OpenAI) -> None:
    image = saved(np.full((30, 30), 90, dtype=np.uint8))
    answer = client.images.create_variation(model="digits", image=image, n=3)
    assert [opened(file).shape for file in files(answer)] == [(8, 8)] * 3
    assert len(set(files(answer))) == 3
    with pytest.raises(openai.BadRequestError, match="has no way back"):
        client.images.create_variation(model="kinds", image=image)


def test_who_hangs_up_frees_the_rows(url: str) -> None:
    body = {"model": "kinds", "n": 128, "steps": 400, "stream": True, "partial_images": 3}
    for stream in (True, False):
        asked = {**body, "stream": stream, "partial_images": 3 * stream}
        before = steps(url, "kinds")
        if stream:
            with httpx.stream("POST", f"{url}/v1/images/generations", json=asked, timeout=60) as reply:
                assert next(reply.iter_bytes())
        else:
            hang_up(f"{url}/v1/images/generations", asked, lambda: waiting(url, "kinds"))
        until(lambda: not waiting(url, "kinds"))
        assert steps(url, "kinds") - before < 128 // WIDTH * 400 / 2, (
            "not the half of what all rows would take"
        )


def test_the_command_draws_the_same_by_the_server_and_here(
    url: str,
    genloom: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    picture: Path,
    mask: Path,
) -> None:
    generate = ("generate", "kinds", "--label", "dog", "--steps", 3, "--guidance", 1.5, "-n", 2, "--seed", 5)
    fill = ("edit", "holes", picture, "--mask", mask, "--seed", 5)
    grey = tmp_path / "grey.png"
    grey.write_bytes(saved(np.full((9, 9), 200, dtype=np.uint8)))
    vary = ("edit", "digits", grey, "-n", 3, "--seed", 5, "--strength", 0.5)
    drawn: dict[str, list[bytes]] = {}
    for where in ("server", "here"):
        if where == "here":
            monkeypatch.setattr(server, "find", lambda _: None)
        folder = tmp_path / where
        folder.mkdir()
        (folder / "many").mkdir()
        said = [
            genloom(*generate, "--json", "-o", folder / "many"),
            genloom(*fill, "-o", folder / "filled.png"),
            genloom(*vary, "-o", folder / "near"),
        ]
        assert [one.code for one in said] == [0, 0, 0], [one.err for one in said]
        told = json.loads(said[0].out)
        assert (told["version"], told["seeds"], told["labels"]) == (1, [5, 6], ["dog", "dog"])
        assert [Path(path).name for path in told["files"]] == ["kinds-1-5.png", "kinds-1-6.png"]
        assert ("by the server" if where == "server" else "loaded here") in said[1].out
        assert sorted(path.name for path in (folder / "near").iterdir()) == [
            f"grey-{own}.png" for own in (5, 6, 7)
        ]
        drawn[where] = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    assert len(drawn["server"]) == 6
    assert drawn["server"] == drawn["here"]


def test_several_pictures_go_into_a_folder(
    url: str, genloom: Callable[..., Any], tmp_path: Path, picture: Path
) -> None:
    sent = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in sent:
        path.write_bytes(saved(np.full((16, 16), 90, dtype=np.uint8)))
    said = genloom("edit", "digits", *sent, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    for arguments, told in (
        (("edit", "digits", *sent, "-o", tmp_path / "out.png"), "name a folder with -o"),
        (("edit", "digits", sent[0], sent[0], "-o", tmp_path / "out"), "have the same name"),
        (("edit", "digits", tmp_path / "none.png"), "cannot be read"),
        (("edit", "kinds", sent[0]), "draws anew and has no way back"),
        (("edit", "holes", picture), "nothing is marked to be filled"),
        (("edit", "holes", picture, "--strength", "0.5"), "There is no field “strength”"),
        (("generate", "holes"), "turns a picture into another"),
        (("generate", "kinds", "--label", "cow"), "There is no class “cow”"),
        (("augment", "digits", "-o", tmp_path / "more"), "draws without classes"),
        (("augment", "kinds", "-o", tmp_path / "out"), "holds something else already"),
        (("augment", "kinds", "-o", picture), "is a file"),
    ):
        result = genloom(*arguments)
        assert result.code == 2, arguments
        assert told in result.err, result.err
        assert result.err.count("\n") == 1, result.err


def test_augmenting_makes_a_dataset_and_goes_on_where_it_was(
    url: str, genloom: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    asked = ("augment", "kinds", "-o", folder, "--steps", 2, "--seed", 3)
    said = genloom(*asked, "-n", 2)
    assert said.code == 0, said.err
    assert "drew 6 new pictures, 2 of each of 3 classes" in said.out
    first = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert len(first) == 6
    lost = folder / "dog" / "kinds-1-1000004.png"
    kept = folder / "dog" / "kinds-1-1000003.png"
    lost.unlink()
    kept.write_bytes(b"kept")
    again = genloom(*asked, "-n", 3)
    assert "drew 4 new pictures, 3 of each of 3 classes" in again.out
    assert kept.read_bytes() == b"kept"
    assert lost.read_bytes() == first[lost]
    kept.write_bytes(first[kept])
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [
        base + row for base in (3, 1000003, 2000003) for row in range(3)
    ]
    assert {(line["product"], line["version"], line["steps"]) for line in lines} == {("kinds", 1, 2)}
    source = open_folder(folder, FolderRow(source="folder", path=str(folder), size=(8, 8), channels=1))
    labels = [getattr(entry, "label", None) for entry in source.entries]
    assert sorted(map(str, labels)) == sorted([*CLASSES[:3]] * 3)
    other = genloom("augment", "kinds", "-o", folder, "--steps", 3, "--seed", 3)
    assert other.code == 2
    assert "holds samples of kinds/1 with seed 3 and other settings" in other.err
