"""Files that are whole or not there."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import files


class StoppedError(Exception):
    pass


def half_of_a_file(path: Path) -> None:
    with files.draft(path) as draft, draft.open("w") as stream:
        stream.write("half of the n")
        raise StoppedError


def half_of_a_folder(folder: Path) -> None:
    with files.draft(folder) as draft:
        draft.mkdir()
        (draft / "weights").write_text("half of the n")
        raise StoppedError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_text_become_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a much longer text that was there before")
    files.write(path, "später\n")
    assert path.read_bytes() == "später\n".encode()
    files.write(path, b"\x00\xff", sync=True)
    assert path.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["a.txt"]


def test_a_secret_is_its_owners_also_where_the_file_was_everybodys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    files.write(path, "new", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failure_half_way_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(StoppedError):
        half_of_a_file(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_half_way_leaves_the_old_folder_and_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(StoppedError):
        half_of_a_folder(folder)
    assert names(tmp_path) == ["model"]
    assert (folder / "weights").read_text() == "old"


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("first", "second"):
        with files.draft(folder) as draft:
            draft.mkdir()
            (draft / name).touch()
    assert names(tmp_path) == ["model"]
    assert names(folder) == ["second"]


def test_what_cannot_be_put_in_its_place_leaves_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "one.png").touch()
    with pytest.raises(IsADirectoryError):
        files.write(folder, b"a picture")
    with pytest.raises(FileNotFoundError), files.draft(folder):
        pass  # nothing was made
    assert names(tmp_path) == ["pictures"]
    assert names(folder) == ["one.png"]


def test_the_cause_is_not_hidden_by_the_removal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.write(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "nowhere" / "a.txt", "text")


def test_of_writers_at_once_one_wins_and_readers_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 300_000 for number in range(8)]
    path.write_bytes(contents[0])

    def write(content: bytes) -> list[bytes]:
        seen = []
        for _ in range(20):
            files.write(path, content)
            seen.append(path.read_bytes())
        return seen

    with ThreadPoolExecutor(len(contents)) as pool:
        seen = [content for found in pool.map(write, contents) for content in found]
    assert set(seen) <= set(contents)
    assert names(tmp_path) == ["a.bin"]
