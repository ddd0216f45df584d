"""Versions that travel as folders: what is more than was packed is refused, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.promotion import parcel
from components.promotion.parcel import PARCEL, pack, unpack
from components.settings import Settings


def rewrite(folder: Path, content: dict[str, Any]) -> None:
    """Write another `parcel.json`, with a hash that fits it."""
    (folder / PARCEL).write_text(json.dumps({**content, "hash": parcel._hash(content)}))


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_that_was_added_is_refused(settings: Settings, register, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of this machine")
    folder = pack(settings, register(1), tmp_path / "parcel")
    to = {"file": outside / "secret", "folder": outside, "nothing": outside / "nowhere"}[kind]
    (folder / "evaluation" / "more").symlink_to(to)
    with pytest.raises(UserError, match=r"evaluation/more was added since parcel\.json was written"):
        unpack(settings, folder, lambda *_: pytest.fail("nothing is measured"))
    content = json.loads((folder / PARCEL).read_text())
    content["files"]["evaluation/more"] = ""
    rewrite(folder, content)
    with pytest.raises(UserError, match="evaluation/more was a"):
        unpack(settings, folder, lambda *_: pytest.fail("nothing is measured"))


def test_a_file_that_is_a_link_to_the_same_content_is_whole(
    settings: Settings, register, tmp_path: Path
) -> None:
    folder = pack(settings, register(1), tmp_path / "parcel")
    report = folder / "evaluation" / "report.json"
    report.rename(tmp_path / "kept.json")
    report.symlink_to(tmp_path / "kept.json")
    assert unpack(settings, folder, lambda *_: pytest.fail("nothing is measured"))[1] is False


@pytest.mark.parametrize("field", ["files", "origin"])
def test_a_parcel_of_another_shape_is_refused(
    settings: Settings, register, tmp_path: Path, field: str
) -> None:
    folder = pack(settings, register(1), tmp_path / "parcel")
    content = json.loads((folder / PARCEL).read_text()) | {field: "x"}
    rewrite(folder, content)
    with pytest.raises(UserError, match=r"parcel\.json lacks what a parcel says; export"):
        unpack(settings, folder, lambda *_: pytest.fail("nothing is measured"))
