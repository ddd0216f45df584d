"""Folders that a person names: new or empty, whole or not there, and an error in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.errors import UserError
from components.folders import new_folder


def test_a_folder_that_somebody_names_is_new_or_empty_and_can_be_written(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as draft:
        (draft / "weights").write_text("whole")
    assert (tmp_path / "a" / "b" / "weights").read_text() == "whole"
    with pytest.raises(UserError, match="b is there already"), new_folder(tmp_path / "a" / "b"):
        pass
    below = tmp_path / "a" / "b" / "weights" / "c"
    with (
        pytest.raises(UserError, match=r"c cannot be written \(.+\); name a folder"),
        new_folder(below),
    ):
        pass
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "gone").symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(UserError, match=r"d cannot be written \(.*No such file or directory"),
        new_folder(tmp_path / "d") as draft,
    ):
        shutil.copytree(tmp_path / "from", draft / "from")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "from"]
