"""A person's own folder: classes, metadata, official splits, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data.example import Dropped, Entry, Source
from components.data.folder import open_folder
from components.errors import UserError
from components.image_rows import FolderRow

Draw = Callable[..., Path]
ROW = FolderRow(source="folder", path="raw", size=(8, 6), channels=3)


def labels(source: Source) -> dict[str, tuple[str | None, str | None]]:
    return {entry.name: (entry.label, entry.split) for entry in source.entries if isinstance(entry, Entry)}


def dropped(source: Source) -> dict[str, str]:
    return {entry.name: entry.reason for entry in source.entries if isinstance(entry, Dropped)}


def describe(folder: Path, *rows: object) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_class_folders(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "cat" / "old", range(1))
    draw(tmp_path / "dog", range(1, 2))
    draw(tmp_path, range(2, 3))
    (tmp_path / ".DS_Store").write_text("x")
    draw(tmp_path / ".hidden", range(1))
    source = open_folder(tmp_path, ROW)
    assert labels(source) == {"cat/old/0000.png": ("cat", None), "dog/0001.png": ("dog", None)}
    assert dropped(source) == {"0002.png": "beside the folders of the classes, so in none of them"}
    assert source.shape == (3, 8, 6)
    assert source.total == 3
    entry = next(iter(source.entries))
    assert isinstance(entry, Dropped | Entry)
    assert all(entry.load().shape == (3, 8, 6) for entry in source.entries if isinstance(entry, Entry))


def test_a_flat_folder_has_no_classes(tmp_path: Path, draw: Draw) -> None:
    source = open_folder(draw(tmp_path, range(2)), ROW)
    assert labels(source) == {"0000.png": (None, None), "0001.png": (None, None)}


def test_official_splits(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "train" / "cat", range(1))
    draw(tmp_path / "Validation" / "cat", range(1, 2))
    draw(tmp_path / "test" / "dog", range(2, 3))
    draw(tmp_path, range(3, 4))
    source = open_folder(tmp_path, ROW)
    assert labels(source) == {
        "train/cat/0000.png": ("cat", "train"),
        "Validation/cat/0001.png": ("cat", "val"),
        "test/dog/0002.png": ("dog", "test"),
    }
    assert dropped(source) == {"0003.png": "beside the folders of the splits, so in none of them"}


def test_a_folder_called_test_alone_is_a_class(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "test", range(1))
    draw(tmp_path / "oven", range(1, 2))
    assert labels(open_folder(tmp_path, ROW))["test/0000.png"] == ("test", None)


def test_metadata_gives_the_labels(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "images", range(4))
    describe(
        tmp_path,
        {"file_name": "images/0000.png", "label": "cat", "text": "a cat"},
        {"file_name": "./images/0001.png", "label": 3},
        {"file_name": "images/0002.png", "label": None},
        {"file_name": "images/gone.png", "label": "cat"},
    )
    source = open_folder(tmp_path, ROW)
    assert labels(source) == {"images/0000.png": ("cat", None), "images/0001.png": ("3", None)}
    assert dropped(source) == {
        "images/0002.png": "without a label in metadata.jsonl",
        "images/0003.png": "not named in metadata.jsonl",
        "images/gone.png": "named in metadata.jsonl, but not there",
    }
    assert source.ignored == ("text",)


def test_metadata_in_each_split(tmp_path: Path, draw: Draw) -> None:
    for number, split in enumerate(("train", "test")):
        draw(tmp_path / split, range(number, number + 1))
        describe(tmp_path / split, {"file_name": f"{number:04d}.png"})
    assert labels(open_folder(tmp_path, ROW)) == {
        "test/0001.png": (None, "test"),
        "train/0000.png": (None, "train"),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 1 is not valid JSON"),
        ("[" * 10**5, "line 1 is not valid JSON"),
        ('{"name": "a.png"}', "line 1 has no “file_name”"),
        ("[1]", "line 1 has no “file_name”"),
        ('{"file_name": "0000.png", "label": 1.5}', "line 1 has the label 1.5; a label is a text"),
        ('{"file_name": "0000.png", "label": true}', "line 1 has the label True"),
        ("\udcff", "line 1 is not valid JSON"),
    ],
)
def test_metadata_that_cannot_be_meant(tmp_path: Path, draw: Draw, line: str, message: str) -> None:
    draw(tmp_path, range(1))
    (tmp_path / "metadata.jsonl").write_text(line, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        open_folder(tmp_path, ROW)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"is empty; put pictures into it"):
        open_folder(tmp_path, ROW)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(UserError, match="is no folder"):
        open_folder(tmp_path / "a.png", ROW)


def test_a_linked_folder_is_not_lost_in_silence(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "elsewhere", range(1))
    draw(tmp_path / "raw" / "cat", range(1))
    (tmp_path / "raw" / "dog").symlink_to(tmp_path / "elsewhere")
    assert "dog" in dropped(open_folder(tmp_path / "raw", ROW))
