"""`genloom data` from outside: add, prepare, list, show, diff, checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import UserError
from components.project import open_project

Genloom = Callable[..., Any]


def draw(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        levels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(levels).save(folder / f"{seed:04d}.png")
    return folder


def state(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in ("params.yaml", "dvc.yaml", "dvc.lock")}


def test_own_pictures_from_folder_to_report(project: Path, genloom: Genloom) -> None:
    draw(project / "raw" / "cat", range(30))
    draw(project / "raw" / "dog", range(30, 60))
    (project / "raw" / "dog" / "note.txt").write_text("x")
    said = genloom("data", "add", "pets", "raw", "--size", "12x8", "--licence", "CC0", "--channels", "1")
    assert said.code == 0, said.err
    assert "61 pictures in 2 classes: cat 30, dog 31" in said.out
    assert "genloom data prepare pets" in said.out
    text = (project / "params.yaml").read_text()
    assert "# What is registered, promoted and served" in text
    assert "size: [8, 12]" in text

    said = genloom("data", "prepare", "pets")
    assert said.code == 0, said.err
    assert str(project / "data/prepared/pets/preview.png") in said.out

    shown = json.loads(genloom("data", "show", "pets", "--json").out)
    assert (shown["read"], shown["kept"], shown["shape"]) == (61, 60, [1, 8, 12])
    assert shown["dropped"]["no picture in a format that can be read"]["files"] == ["dog/note.txt"]
    assert "no picture in a format that can be read=1" in genloom("data", "show", "pets").out
    listed = {row["name"]: row for row in json.loads(genloom("data", "list", "--json").out)}
    assert (listed["pets"]["rows"], listed["pets"]["prepared"], listed["pets"]["licence"]) == (
        60,
        True,
        "CC0",
    )
    assert (listed["mnist"]["rows"], listed["mnist"]["prepared"]) == (None, False)

    shutil.rmtree(project / "data" / "prepared" / "pets")
    assert genloom("data", "checkout", "pets").code == 0
    assert json.loads(genloom("data", "show", "pets", "--json").out) == shown


def test_own_classes_become_a_product_that_draws_by_class(project: Path, genloom: Genloom) -> None:
    draw(project / "raw" / "cat", range(30))
    draw(project / "raw" / "dog", range(30, 60))
    said = genloom("data", "add", "pets", "raw", "--size", "8", "--by-class")
    assert said.code == 0, said.err
    assert "“pets” (task label) with the runs pets-cvae and pets-diffusion" in said.out
    where = open_project(project)
    assert where.product("pets").task == "label"
    assert [where.run(f"pets-{family}").product for family in ("cvae", "diffusion")] == ["pets"] * 2


def test_own_text_from_file_to_report(project: Path, genloom: Genloom) -> None:
    lines = "\n".join(f"line {number} of some text" for number in range(80))
    (project / "notes").mkdir()
    (project / "notes" / "a.txt").write_text(lines)
    said = genloom("data", "add", "notes", "notes", "--unit", "line", "--context", "64", "--licence", "CC0")
    assert said.code == 0, said.err
    assert "80 documents\n" in said.out
    tables = open_project(project).tables
    assert tables.products["notes"].task == "prompt"
    assert {tables.runs[f"notes-{family}"].family for family in ("gpt", "lstm")} == {"gpt", "lstm"}
    assert "with the runs notes-gpt and notes-lstm to params.yaml" in said.out
    said = genloom("data", "prepare", "notes")
    assert said.code == 0, said.err
    assert str(project / "data/prepared/notes/preview.txt") in said.out
    shown = json.loads(genloom("data", "show", "notes", "--json").out)
    assert (shown["read"], shown["kept"], shown["shape"], shown["classes"]) == (80, 80, [64], [])
    assert shown["preview"] == str(project / "data/prepared/notes/preview.txt")
    assert "documents" in genloom("data", "show", "notes").out
    listed = {row["name"]: row for row in json.loads(genloom("data", "list", "--json").out)}
    assert (listed["notes"]["modality"], listed["notes"]["prepared"]) == ("text", True)


def test_diff_counts_what_came_and_went_since_a_commit(project: Path, genloom: Genloom) -> None:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    identity |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    draw(project / "raw", range(40))
    assert genloom("data", "add", "noise", "raw", "--size", "8").code == 0
    assert genloom("data", "prepare", "noise").code == 0
    (project / ".dvc" / "config").write_text("")  # from now on with git
    for command in (["init", "-q"], ["add", "params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    subprocess.run(["git", "commit", "-qm", "data"], cwd=project, check=True, env={**os.environ, **identity})
    draw(project / "raw", range(40, 100))
    (project / "raw" / "0000.png").unlink()
    assert genloom("data", "prepare", "noise").code == 0
    changes = json.loads(genloom("data", "diff", "noise", "--json").out)
    assert sum(change["before"] for change in changes) == 40
    assert sum(change["added"] for change in changes) == 60
    assert sum(change["removed"] for change in changes) == 1
    said = genloom("data", "diff", "noise", "--commit", "nowhere")
    assert said.code == 2
    assert "as of nowhere cannot be read" in said.err


def test_bad_input_is_one_sentence_and_changes_nothing(project: Path, genloom: Genloom) -> None:
    before = state(project)
    draw(project / "good", range(3))
    (project / "empty").mkdir()
    (project / "texts").mkdir()
    (project / "texts" / "a.png").write_text("x")
    (project / "words").mkdir()
    (project / "words" / "a.txt").write_text("x")
    (project / "odd.jsonl").write_text('{"prose": "x"}')
    (project / "half.jsonl").write_text('{"text": ')
    (project / "empty.txt").write_text(" \n")
    draw(project / "linked", range(3))
    (project / "linked" / "dead.png").symlink_to("nowhere")
    (project / "broken").mkdir()
    (project / "broken" / "a.parquet").write_bytes(b"PAR1 and nothing more")
    cases = [
        (("data", "add", "mine", "gone"), "There is no .*gone; give the folder or file that holds your"),
        (("data", "add", "mine", "empty"), "The folder .*empty is empty; put pictures into it"),
        (
            ("data", "add", "mine", "texts"),
            "texts holds no picture that can be read .1 no picture in a format",
        ),
        (("data", "add", "mine", "broken"), "a.parquet is no whole Parquet file"),
        (("data", "add", "mine", "."), "holds the project's own prepared data"),
        (("data", "add", "digits", "good"), "There is already a dataset “digits”"),
        (("data", "add", "mnist-attention", "good"), "There is already a run “mnist-attention-vae”"),
        (("data", "add", "a" * 60, "good"), "is too long for the name of its run, “a{60}-vae”"),
        (
            ("data", "add", "mine", "linked"),
            "linked/dead.png is a link that leads nowhere, .* remove the link",
        ),
        (("data", "add", "~nobody-here/x", "~nobody-here/x"), "no such user; write the folder out"),
        (("data", "checkout", "mnist"), "“mnist” was never prepared here; type genloom data prepare mnist"),
        (("data", "add", "Bad Name", "good"), "“Bad Name” is no good name"),
        (("data", "add", "mine", "good", "--size", "3"), "--size is “3”; write pixels a side"),
        (("data", "add", "mine", "good", "--size", "8x"), "--size is “8x”"),
        (("data", "add", "mine", "good", "--channels", "4"), "--channels is 4; take 3"),
        (("data", "add", "mine", "good", "--fit", "zoom"), "--fit is “zoom”; take crop"),
        (("data", "add", "mine", "good", "--label", "kind"), "holds no Parquet file; leave out --label"),
        (("data", "add", "mine", "good", "--by-class"), "good holds 0 classes, and --by-class needs two"),
        (("data", "add", "mine", "words", "--by-class"), "--by-class is for pictures with classes alone"),
        (("data", "add", "mine", "good", "--context", "64"), "good holds pictures; leave out --context"),
        (
            ("data", "add", "mine", "words", "--size", "8", "--fit", "crop"),
            "holds text; leave out --fit and --si",
        ),
        (("data", "add", "mine", "words", "--context", "7"), "--context is 7; take a number from 8 to 65536"),
        (
            ("data", "add", "mine", "words", "--tokenizer", "x"),
            "--tokenizer is “x”; take characters, bytes or b",
        ),
        (
            ("data", "add", "mine", "odd.jsonl"),
            "odd.jsonl have no “text”, .*their fields: prose.*; write a row",
        ),
        (("data", "add", "mine", "half.jsonl"), "half.jsonl, line 1 is not valid JSON"),
        (("data", "add", "mine", "empty.txt"), "empty.txt holds no text that can be read .1 empty"),
        (("data", "prepare", "digit"), "There is no dataset “digit”; did you mean digits"),
        (("data", "show", "mnist"), "“mnist” is not prepared; type genloom data prepare mnist"),
        (("data", "checkout", "digit"), "There is no dataset “digit”"),
        (("data", "diff", "digits"), "“digits” as of HEAD cannot be read"),
    ]
    for arguments, sentence in cases:
        said = genloom(*arguments)
        assert said.code == 2, (arguments, said)
        assert said.out == ""
        lines = said.err.strip().splitlines()
        assert len(lines) == 1, lines
        assert re.search(sentence, lines[0]), lines[0]
    assert state(project) == before


def test_one_damaged_dataset_does_not_hide_the_others(project: Path, genloom: Genloom) -> None:
    folder = project / "data" / "prepared" / "mnist"
    folder.mkdir()
    for content in ("{", "[]", '{"files": 1}'):
        (folder / "dataset.json").write_text(content)
        listed = {row["name"]: row for row in json.loads(genloom("data", "list", "--json").out)}
        assert (listed["mnist"]["prepared"], listed["mnist"]["damaged"]) == (False, True)
        assert (listed["digits"]["prepared"], listed["digits"]["damaged"]) == (True, False)
        assert "damaged" in genloom("data", "list").out
        said = genloom("data", "show", "mnist")
        assert said.code == 2
        assert "dataset.json is damaged; type genloom data prepare mnist --force." in said.err


def test_too_few_pictures_say_the_arithmetic(project: Path, genloom: Genloom) -> None:
    draw(project / "few", range(2))
    assert genloom("data", "add", "few", "few").code == 0
    said = genloom("data", "prepare", "few")
    assert said.code == 2
    assert "2 found, 0 left out, 2 kept, of which" in said.err
    assert not (project / "data" / "prepared" / "few").exists()


def test_adding_is_all_or_nothing(project: Path, genloom: Genloom) -> None:
    draw(project / "good", range(3))
    (project / "dvc.yaml").write_text("stages: [")
    before = state(project)
    said = genloom("data", "add", "mine", "good")
    assert said.code == 2
    assert "dvc.yaml is not valid YAML" in said.err
    assert state(project) == before


def test_adding_that_fails_takes_only_its_own_rows_away(
    project: Path, genloom: Genloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(project / "good", range(3))
    params = project / "params.yaml"
    other = "\n  other: {product: digits, family: gan}  # by hand\n"

    def fails(*_: object) -> None:
        params.write_text(params.read_text().rstrip() + other)
        raise UserError("no stage")

    monkeypatch.setattr("components.data.add.ensure_stage", fails)
    assert genloom("data", "add", "mine", "good").code == 2
    tables = open_project(project).tables
    assert "other" in tables.runs
    assert "mine" not in {*tables.datasets, *tables.products}
    assert not [name for name in tables.runs if name.startswith("mine")]
    assert "# by hand" in params.read_text()


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "foo",
        "stages: [1]",
        "stages: {prepare-digits: 5}",
        "stages: {prepare-digits: {deps: [5]}}",
        "\xff",
    ],
)
def test_a_dvc_yaml_of_another_shape_is_one_sentence(project: Path, genloom: Genloom, content: str) -> None:
    (project / "dvc.yaml").write_bytes(content.encode("latin-1"))
    said = genloom("data", "prepare", "digits")
    assert said.code == 2
    assert "dvc.yaml" in said.err
    assert len(said.err.strip().splitlines()) == 1
