"""Class folders that a model draws: one filler at a time, one folder a class, and one version for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from components.errors import UserError
from components.serving import client
from components.serving.augment import Augmented, augment
from components.serving.draw import draw
from components.serving.place import Place
from tests.components.serving.painter import picture, saved


def place(*classes: str) -> Place:
    about = {"classes": classes, "digest": "d", "routes": []}
    return Place("kinds", 1, "image", about, url="http://nowhere")


class Server:
    """Answers with the versions that it is given in turn, the last one for ever."""

    def __init__(self, *versions: int) -> None:
        self.versions = list(versions)
        self.asked: list[int] = []
        self.withheld = 0

    def ask(self, url: str, route: str, body: Mapping[str, Any]) -> client.Answer:
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        count = int(body["n"])
        self.asked.append(count)
        count -= self.withheld
        seeds = [int(body["seed"]) + row for row in range(count)]
        return client.Answer([saved(picture(2, 2))] * count, version, seeds, [body.get("label")] * count)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server(1)
    monkeypatch.setattr(client, "ask", found.ask)
    return found


def fill(place: Place, folder: Path, each: int = 2, **options: Any) -> Augmented:
    return augment(place, folder, each, 3, options, lambda done, total: None)


def test_names_that_are_no_folders_are_replaced(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert fill(place("cat", "", "a/b", ".hidden", "x" * 256), folder).made == 10
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "cat",
        "class-1",
        "class-2",
        "class-3",
        "class-4",
    ]
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [(line["label"], line["seed"]) for line in lines[:4]] == [
        ("cat", 3),
        ("cat", 4),
        ("", 1000003),
        ("", 1000004),
    ]
    assert all((folder / line["file_name"]).is_file() for line in lines)


def test_fewer_pictures_than_before_leave_the_others_in_the_list(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(place("cat", "dog"), folder, each=5)
    before = (folder / "metadata.jsonl").read_text()
    assert fill(place("cat", "dog"), folder, each=2).made == 0
    assert (folder / "metadata.jsonl").read_text() == before
    (folder / "metadata.jsonl").unlink()  # as if the first command had been killed
    fill(place("cat", "dog"), folder, each=2)
    assert (folder / "metadata.jsonl").read_text() == before
    (folder / "cat" / "kinds-1-6.png").unlink()
    (folder / "cat" / "a note.png").write_text("not ours")
    fill(place("cat", "dog"), folder, each=2)
    listed = (folder / "metadata.jsonl").read_text()
    assert listed.splitlines() == [line for line in before.splitlines() if '"seed": 6}' not in line]


def test_pictures_that_a_filter_withholds_are_said(server: Server, tmp_path: Path) -> None:
    server.withheld = 1
    with pytest.raises(UserError, match="filter of kinds withholds 1 of 2 pictures; take it out"):
        fill(place("cat"), tmp_path / "out")
    server.withheld = 0
    assert fill(place("cat"), tmp_path / "out").made == 2


def test_two_classes_share_no_folder(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Two classes of kinds would share the folder class-1"):
        fill(place("class-1", "a/b"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_command_fills_a_folder_at_a_time(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with (
        FileLock(folder / ".augment.lock"),
        pytest.raises(UserError, match="is being filled by another command"),
    ):
        fill(place("cat"), folder)
    assert fill(place("cat"), folder).made == 2


def test_large_pictures_are_asked_for_a_few_at_a_time(server: Server, tmp_path: Path) -> None:
    fill(place("cat", "dog"), tmp_path / "out", each=10, size="2048x2048")
    assert server.asked == [8, 2, 8, 2]


def test_pictures_of_two_versions_are_not_mixed(server: Server, tmp_path: Path) -> None:
    server.versions = [1, 2]
    with pytest.raises(UserError, match=r"The server serves kinds/2 since just now; .* --version 1\."):
        draw(place(), 200, 0, {})
    assert server.asked == [128, 72]
    server.versions = [1, 2]
    with pytest.raises(UserError, match=r"serves kinds/2 since just now"):
        fill(place("cat", "dog"), tmp_path / "out")
    server.versions = [1]
    assert fill(place("cat", "dog"), tmp_path / "out").made == 2
