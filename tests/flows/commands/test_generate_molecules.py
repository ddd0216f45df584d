"""`genloom generate` of a product of molecules: files and a picture, by a server and by a model loaded here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.serving import molecules
from components.serving.catalog import Loaded
from components.serving.place import Place
from components.serving.routes.models import describe
from tests.components.serving.asking import a_server
from tests.components.serving.chemist import WRITTEN, chemist

Genloom = Callable[..., Any]
ASK = ("generate", "digits", "--seed", 0)
VALID = [place for place in range(14) if place % 7 not in (2, 4)]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Molecules, under the name of a product that the project has; the server closes it."""
    return chemist(tmp_path, "digits")


@pytest.fixture
def url(project: Path, loaded: Loaded) -> Iterator[str]:
    with a_server(project, {"digits": loaded}) as url:
        yield url


def test_a_file_and_its_picture_are_written(project: Path, genloom: Genloom, url: str) -> None:
    out = project / "out.smi"
    said = genloom(*ASK, "-n", 7, "-o", out)
    assert said.code == 0, said.err
    assert said.out == (
        f"digits/2 wrote {out} and {project / 'out.png'} with seed 0, by the server at {url}: "
        "7 molecules, 5 valid, of 7 that were drawn.\n"
    )
    assert out.read_text() == "".join(f"{WRITTEN[seed]} {seed}\n" for seed in VALID if seed < 7)
    for file in (out, project / "out.png"):
        told = json.loads(genloom("labels", "read", file, "--json").out)
        assert told["statement"]["product"] == "digits", told
    alone = genloom(*ASK, "--prompt", "c1ccccc1", "-n", 2, "-o", project / "alone.png")
    assert alone.code == 0, alone.err
    assert not (project / "alone.smi").exists()


def test_many_are_asked_for_in_parts_that_go_on_from_each_other(
    project: Path, genloom: Genloom, url: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = genloom(*ASK, "-n", 9, "--valid-only", "-o", project / "a.csv", "--json")
    assert whole.code == 0, whole.err
    content = json.loads(whole.out)
    assert [one["seed"] for one in content["molecules"]] == VALID[:9]
    assert (content["drawn"], content["valid"]) == (13, 9)
    with (project / "a.csv").open() as file:
        assert [int(row["seed"]) for row in csv.DictReader(file)] == VALID[:9]
    monkeypatch.setattr(molecules, "AT_ONCE", 4)
    here = Place("digits", 2, "molecule", describe(loaded), loaded=loaded)
    by_server = Place("digits", 2, "molecule", describe(loaded), url=url)
    for place in (here, by_server):
        made = molecules.design(place, 9, 0, {"valid_only": True})
        assert [one["seed"] for one in made.found] == VALID[:9]
        assert made.drawn == 13


def test_a_search_that_ends_early_says_so(
    project: Path, genloom: Genloom, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(molecules, "DRAWS", 2)
    monkeypatch.setattr(molecules, "LEAST_DRAWN", 20)
    said = genloom(*ASK, "-n", 9, "--contains", "c1ccncc1", "-o", project / "few.sdf")
    assert said.code == 0, said.err
    assert "3 molecules, 3 valid, of 20 that were drawn (9 were wanted)." in said.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "out.txt"), "The molecules are SMI or CSV or SDF or PNG; name the file out.smi."),
        (("-o", "."), "The molecules are SMI or CSV or SDF or PNG; name the file out.smi."),
        (("-o", "missing/out.smi"), "There is no folder missing"),
        (("--prompt", "C(["), "no token begins at “[”"),
        (("--contains", "]["), "neither SMILES nor SMARTS"),
        (("--label", "huge"), "There is no label “huge”"),
        (("--size", "8x8"), "digits makes molecules, without --size; leave it out."),
        (("--max-tokens", 5), "digits makes molecules, without --max-tokens; leave it out."),
    ],
)
def test_wrong_use_is_one_sentence(
    project: Path, genloom: Genloom, url: str, options: tuple[Any, ...], sentence: str
) -> None:
    said = genloom(*ASK, *options)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not (project / "out.smi").exists()
