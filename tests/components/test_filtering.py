"""Content filters: words, a project's own code, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UserError
from components.filtering import ContentFilter, open_filter
from components.terms import FilterRow, Terms, terms_of


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a Damn day", 2),
        ("damned", None),
        ("undamn", None),
        ("damn", 0),
        ("so: two words!", 4),
        ("two  words", None),
        ("这是坏话啊", 2),
        ("c++ is out", 0),
        ("cc++", None),
        ("", None),
    ],
)
def test_words_are_whole_words_in_any_case(text: str, place: int | None) -> None:
    assert ContentFilter(Terms(words=("damn", "two words", "坏话", "C++"))).word(text) == place


def test_what_may_become_a_longer_word_waits() -> None:
    found = ContentFilter(Terms(words=("damn",)))
    assert found.word("oh damn", whole=False) is None
    assert found.word("oh damn.", whole=False) == 3
    assert found.reach == 5


def test_code_of_the_project_decides_and_a_failure_lets_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def refuse(content, media_type):\n"
        "    if content == b'boom':\n        raise RuntimeError('no model')\n"
        "    return 'too dark' if media_type == 'image/png' and not content.strip(b'0') else None\n"
    )
    found = open_filter(terms_of(tmp_path, "digits", "hash", FilterRow(code=Path("own.py"))))
    assert found is not None
    assert found.refuses(b"000", "image/png") == "too dark"
    assert found.refuses(b"010", "image/png") is None
    assert found.refuses(b"boom", "image/png") == "the content filter failed"
    assert open_filter(Terms()) is None


WRONG = [
    (FilterRow(), "there is nothing; give it words"),
    (FilterRow(words=("a", " ")), "one of the words is empty"),
    (FilterRow(code=Path("gone.py")), r"gone.py cannot be read \(No such file or directory\)"),
]


@pytest.mark.parametrize(("row", "said"), WRONG)
def test_a_filter_that_cannot_be_is_said_when_the_table_is_used(
    tmp_path: Path, row: FilterRow, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        terms_of(tmp_path, "digits", "hash", row)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def refuse(:", "cannot be loaded \\(SyntaxError"),
        ("raise ValueError('x')", "cannot be loaded \\(ValueError: x\\)"),
        ("refuse = 3", "has no function refuse"),
    ],
)
def test_code_that_cannot_be_used_is_said(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        open_filter(Terms(code=path))


def test_terms_differ_when_the_code_does(tmp_path: Path) -> None:
    digests = set()
    for content in ("a = 1", "a = 2"):
        (tmp_path / "own.py").write_text(content)
        digests.add(terms_of(tmp_path, "digits", "hash", FilterRow(code=Path("own.py"))).digest)
    assert len(digests | {Terms().digest, Terms("full").digest}) == 4
