"""Lines of JSON by day: what is old goes, and whatever hinders that, or the disk, what is new is kept or told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.serving import lines
from components.serving.lines import WRITER, Days, Gathered, line
from tests.until import until


def kept(folder: Path) -> list[str]:
    """The lines of today."""
    path = folder / f"{datetime.now(UTC).date().isoformat()}.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_an_old_file_that_cannot_be_deleted_loses_nothing_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "2020-01-01.jsonl").mkdir()  # unlink refuses a folder
    gathered = Gathered(Days(tmp_path, 30))
    for number in range(2):
        gathered.add(str(number))
        gathered.flush()
    assert kept(tmp_path) == ["0", "1"]
    assert caplog.text.count("could not be deleted") == 1


def test_lines_are_written_soon_by_themselves_and_others_after_some_were_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = Gathered(Days(tmp_path / "broken", 30)), Gathered(Days(tmp_path / "whole", 30))

    def fails(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(broken.days, "append", fails)
    broken.add("lost")
    until(lambda: "were lost" in caplog.text)
    whole.add("kept")
    until(lambda: kept(tmp_path / "whole") == ["kept"])
    assert WRITER._thread is not None
    assert WRITER._thread.is_alive()


def test_what_waits_is_bounded_in_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "MOST", 10)
    gathered = Gathered(Days(tmp_path, 30))
    monkeypatch.setattr(WRITER, "soon", lambda _: None)
    for _ in range(4):
        gathered.add("x" * 6)
    gathered.flush()
    assert kept(tmp_path) == ["x" * 6] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"2 lines of {tmp_path} were lost: the disk is too slow"
    ]
    gathered.add("again")
    gathered.flush()
    assert kept(tmp_path)[-1] == "again"


@pytest.mark.parametrize("text", ["a\u2028b", "\ud800", "ü", "\x85", 2**70])
def test_a_line_is_one_and_says_the_same(text: str | int) -> None:
    written = line({"text": text})
    assert "\n" not in written
    assert json.loads(written) == {"text": text}
