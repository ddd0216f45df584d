"""`genloom generate` where the product's content filter withholds pictures: what is said, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.families.family import Shape
from components.filtering import ContentFilter
from components.serving import draw
from components.serving.catalog import Loaded
from components.serving.place import Place
from components.terms import Terms
from tests.components.serving.asking import a_server
from tests.components.serving.painter import Painter, served

Genloom = Callable[..., Any]
CODE = """
def refuse(content, media_type):
    return "an even file" if sum(content) % 2 == 0 else None
"""
ASK = ("generate", "digits", "-n", 16, "--seed", 1)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    """Pictures of which the filter withholds about every other one."""
    code = tmp_path / "own.py"
    code.write_text(CODE)
    painter = served(tmp_path, "digits", Painter(), Shape(data=(1, 8, 8), classes=3))
    yield replace(painter, filter=ContentFilter(Terms(code=code)))
    painter.engine.close()


@pytest.fixture
def url(project: Path, loaded: Loaded) -> Iterator[str]:
    with a_server(project, {"digits": loaded}) as url:
        yield url


def test_what_is_withheld_is_said_and_listed(project: Path, genloom: Genloom, url: str) -> None:
    said = genloom(*ASK, "--json", "-o", project / "many")
    assert said.code == 0, said.err
    content = json.loads(said.out)
    withheld = [one["seed"] for one in content["withheld"]]
    assert 0 < len(withheld) < 16
    assert sorted(content["seeds"] + withheld) == list(range(1, 17))
    assert content["seed"] == 1
    assert {one["reason"] for one in content["withheld"]} == {"an even file"}
    assert len(list((project / "many").iterdir())) == len(content["files"]) == 16 - len(withheld)

    count = len(withheld)
    sentence = f"The content filter of digits withheld {count} of 16 pictures (an even file: {count}).\n"
    assert said.err == sentence
    plain = genloom(*ASK, "-o", project / "grid.png")
    assert (plain.code, plain.err) == (0, sentence)
    assert "with seed 1, by the server at" in plain.out


def test_where_all_is_withheld_nothing_is_written(project: Path, genloom: Genloom, url: str) -> None:
    listed = json.loads(genloom(*ASK, "--json", "-o", project / "grid.png").out)["withheld"]
    seed, out = listed[0]["seed"], project / "one.png"
    said = genloom("generate", "digits", "-n", 1, "--seed", seed, "-o", out)
    assert said.code == 1
    assert said.err == (
        "genloom: The content filter of digits withheld every picture (an even file: 1); "
        "ask with another --seed.\n"
    )
    assert said.out == ""
    assert not out.exists()


def test_a_request_of_which_nothing_is_left_does_not_end_the_others(
    project: Path, genloom: Genloom, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = json.loads(genloom(*ASK, "--json", "-o", project / "grid.png").out)
    monkeypatch.setattr(draw, "AT_ONCE", 1)
    one_by_one = json.loads(genloom(*ASK, "--json", "-o", project / "grid.png").out)
    assert one_by_one == at_once


def test_a_model_that_is_loaded_here_is_not_filtered(loaded: Loaded) -> None:
    drawn = draw.draw(Place("digits", 1, "image", {}, loaded=loaded), 16, 1, {})
    assert (len(drawn.files), drawn.withheld) == (16, {})


def test_an_answer_never_takes_the_place_of_a_picture_that_was_given(tmp_path: Path) -> None:
    given = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in given:
        path.write_bytes(b"mine")
    drawing = draw.Drawing(
        "digits", 1, "here", 0, [b"one", b"two"], ["c.png", "b.png"], [0, 1], [None] * 2, {}, "picture"
    )
    for target in (
        draw.Target(tmp_path, folder=True),
        draw.Target(tmp_path / "x" / ".." / "a.png", folder=False),
    ):
        with pytest.raises(UserError, match=r"would take the place of .*(a|b)\.png, which was given"):
            draw.write(target, drawing, given)
    assert [path.read_bytes() for path in given] == [b"mine"] * 2
    assert not (tmp_path / "c.png").exists()


@pytest.mark.usefixtures("url")
def test_edit_refuses_to_replace_its_own_input(genloom: Genloom, project: Path) -> None:
    (project / "mine").mkdir()
    path = project / "mine" / "seven.png"
    path.write_bytes(b"mine")
    for out in ("mine", "mine/seven.png"):
        said = genloom("edit", "digits", str(path), "-o", out)
        assert said.code == 2
        assert "seven.png, which was given; write elsewhere with -o" in said.err
    assert path.read_bytes() == b"mine"


def test_options_of_texts_are_told_even_if_they_are_zero(genloom: Genloom, url: str) -> None:
    said = genloom("generate", "digits", "--temperature", "0", "-o", "x.png")
    assert said.code == 2
    assert "makes pictures, without --temperature" in said.err


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("verb", [("generate", "digits"), ("edit", "digits", "a.png"), ("augment", "digits")])
def test_an_empty_name_is_not_the_current_folder(
    genloom: Genloom, project: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    (project / "here").mkdir()
    monkeypatch.chdir(project / "here")
    said = genloom(*verb, "-n", 1, "-o", "")
    assert (said.code, said.out) == (2, "")
    assert said.err == "genloom: -o names nothing; name a file or a folder, or . for the current one.\n"
    assert not list((project / "here").iterdir())
