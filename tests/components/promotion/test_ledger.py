import dataclasses
import json
from pathlib import Path

import pytest

from components.errors import FailedError
from components.promotion.ledger import Entry, append, read, standing, verify


def entry(event: str, version: int, champion: int | None = None) -> Entry:
    return Entry(
        event=event,
        product="digits",
        version=version,
        digest=f"digest-{version}",
        champion=champion,
        reasons=("Because “it” is better.",),
        who="ada",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger" / "digits.jsonl"
    for version in (1, 2, 3):
        append(path, entry("promote", version, version - 1 or None))
    return path


def test_lines_are_appended_and_nothing_before_them_changes(path: Path) -> None:
    before = path.read_bytes()
    line = append(path, entry("refuse", 4, 3))
    assert path.read_bytes().startswith(before)
    assert read(path)[-1] == line
    assert [found.previous for found in read(path)] == ["", *(found.hash for found in read(path)[:-1])]
    assert verify(path) == 4


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_altered_line_is_named(path: Path, number: int) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = lines[number - 1].replace("ada", "bob")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FailedError, match=rf"^Line {number} of .* was altered"):
        verify(path)
    with pytest.raises(FailedError):
        append(path, entry("promote", 4, 3))


def test_a_line_altered_with_its_own_hash_breaks_the_next(path: Path) -> None:
    from components.promotion import ledger

    lines = path.read_text().splitlines()
    content = json.loads(lines[0]) | {"who": "bob"}
    lines[0] = json.dumps(content | {"hash": ledger._hash(content)})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FailedError, match=r"^Line 2 of .* does not follow"):
        verify(path)


def test_a_removed_or_unreadable_line_is_named(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(FailedError, match=r"^Line 2 "):
        verify(path)
    path.write_text("\n".join([lines[0], "{", lines[2]]) + "\n")
    with pytest.raises(FailedError, match=r"^Line 2 .* not readable"):
        verify(path)


def test_a_line_that_a_crash_cut_off_counts_for_nothing_and_is_set_aside(path: Path) -> None:
    whole = path.read_bytes()
    append(path, entry("promote", 4, 3))
    torn = path.read_bytes()[: len(whole) + 40]
    path.write_bytes(torn)
    assert standing(read(path)).champion == 3
    with pytest.raises(FailedError, match=r"^Line 4 .* cut off"):
        verify(path)
    append(path, entry("promote", 5, 3))
    assert verify(path) == 4
    assert path.read_bytes().startswith(whole)
    assert path.with_suffix(".torn").read_bytes() == torn[len(whole) :] + b"\n"


def test_rollbacks_go_back_step_by_step_and_mark_what_they_leave(path: Path) -> None:
    append(path, entry("rollback", 2, 3))
    found = standing(read(path))
    assert (found.champion, {*found.rolled_back}) == (2, {3})
    append(path, entry("promote", 4, 2))
    append(path, entry("refuse", 3, 4))
    found = standing(read(path))
    assert [number for number, _ in found.champions] == [1, 2, 4]
    append(path, entry("rollback", 1, 4))
    found = standing(read(path))
    assert (found.champion, {*found.rolled_back}) == (1, {2, 3, 4})
    assert {number: line.version for number, line in found.rolled_back.items()} == {3: 2, 2: 1, 4: 1}
    append(path, entry("rollback", 3, 1))
    found = standing(read(path))
    assert [number for number, _ in found.champions] == [1, 3]
    assert ({*found.rolled_back}, found.ever) == ({2, 4}, {1, 2, 3, 4})


def test_a_product_without_a_ledger_has_no_champion(tmp_path: Path) -> None:
    assert standing(read(tmp_path / "none.jsonl")).champion is None
    assert verify(tmp_path / "none.jsonl") == 0


def test_words_of_a_terminal_that_speaks_no_unicode_are_kept(path: Path) -> None:
    append(path, dataclasses.replace(entry("rollback", 2, 3), why="caf\udce9"))
    assert read(path)[-1].why == "caf\\udce9"
    assert verify(path) == 4
