"""Where pictures go, checked before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UserError
from components.serving.draw import at_once, check_target


def test_a_file_without_an_ending_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("kept")
    with pytest.raises(
        UserError, match=r"The pictures are PNG; name the file .*notes\.png, or name a folder"
    ):
        check_target(tmp_path / "notes")


def test_folders_and_pictures_are_taken(tmp_path: Path) -> None:
    (tmp_path / "with.dots").mkdir()
    assert check_target(tmp_path / "with.dots").folder
    assert check_target(tmp_path / "new").folder
    assert not check_target(tmp_path / "a.PNG").folder


def test_requests_for_large_pictures_ask_for_fewer() -> None:
    assert [at_once(size, 128) for size in (None, "auto", "512x512", "1024x1024", "2048x2048")] == [
        128,
        128,
        128,
        32,
        8,
    ]
