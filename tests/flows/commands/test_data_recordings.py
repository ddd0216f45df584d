"""`genloom data` with a person's own recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from components.audio_rows import RecordingsRow
from components.project import open_project
from components.train.plan import check_product, check_run

Genloom = Callable[..., Any]


def record(folder: Path, numbers: range, suffix: str = ".wav", seconds: float = 0.1) -> None:
    """Tones of which no two are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        levels = 0.5 * np.sin(2 * np.pi * (300 + 7 * number) * np.arange(round(8000 * seconds)) / 8000)
        soundfile.write(folder / f"{number:03d}{suffix}", levels, 8000)


def test_own_recordings_from_folder_to_report(project: Path, genloom: Genloom) -> None:
    record(project / "raw" / "low", range(20))
    record(project / "raw" / "high", range(20, 40), ".flac", 0.31)
    (project / "raw" / "high" / "cover.txt").write_text("x")
    said = genloom("data", "add", "tones", "raw", "--licence", "CC0")
    assert said.code == 0, said.err
    assert "41 recordings in 2 classes: high 21, low 20" in said.out
    assert "“tones” (task label) with the run tones-vqvae" in said.out
    where = open_project(project)
    row = where.dataset("tones")
    assert isinstance(row, RecordingsRow)
    assert (row.path, row.rate, row.seconds, row.licence) == ("raw", 8000, 0.4, "CC0")
    assert "    rate: 8000\n    seconds: 0.4\n" in (project / "params.yaml").read_text()
    check_product(where, "tones")
    run = where.run("tones-vqvae")
    assert (run.model, run.train.batch) == ({"halvings": 3}, 16), "400 codes for 3,200 samples"
    check_run(where, "tones-vqvae", run)

    said = genloom("data", "prepare", "tones")
    assert said.code == 0, said.err
    shown = json.loads(genloom("data", "show", "tones", "--json").out)
    assert (shown["read"], shown["kept"], shown["cut"], shown["shape"]) == (41, 40, 0, [3200])
    assert shown["dropped"]["no recording in a format that can be read"]["files"] == ["high/cover.txt"]
    assert re.search(r"train=\d+ rows, 0\.\d+ minutes", genloom("data", "show", "tones").out)
    listed = {row["name"]: row for row in json.loads(genloom("data", "list", "--json").out)}
    assert (listed["tones"]["rows"], listed["tones"]["modality"]) == (40, "audio")
    (project / "raw" / "low" / "000.wav").unlink()
    assert "tones: train" in genloom("data", "prepare", "tones").out
    assert json.loads(genloom("data", "show", "tones", "--json").out)["read"] == 40


@pytest.mark.parametrize(
    ("options", "rate", "seconds"),
    [(("--rate", "16000"), 16000, 0.1), (("--seconds", "2.5"), 8000, 2.5)],
)
def test_rate_and_length_may_be_said(
    project: Path, genloom: Genloom, options: tuple[str, ...], rate: int, seconds: float
) -> None:
    record(project / "raw", range(3))
    said = genloom("data", "add", "tones", "raw", *options)
    assert said.code == 0, said.err
    where = open_project(project)
    row = where.dataset("tones")
    assert isinstance(row, RecordingsRow)
    assert (row.rate, row.seconds) == (rate, seconds)
    assert where.product("tones").task == "free"


def test_a_few_long_recordings_do_not_make_all_long(project: Path, genloom: Genloom) -> None:
    record(project / "raw", range(40))
    record(project / "raw", range(40, 41), seconds=9)
    assert genloom("data", "add", "some", "raw").code == 0
    record(project / "long", range(3), seconds=11)
    assert genloom("data", "add", "long", "long").code == 0
    rows = open_project(project).tables.datasets
    found = [row.seconds for row in (rows["some"], rows["long"]) if isinstance(row, RecordingsRow)]
    assert found == [0.1, 10.0]


def test_bad_input_is_one_sentence_and_changes_nothing(project: Path, genloom: Genloom) -> None:
    before = (project / "params.yaml").read_bytes(), (project / "dvc.yaml").read_bytes()
    record(project / "good", range(3))
    (project / "bad").mkdir()
    (project / "bad" / "a.wav").write_text("x")
    (project / "mixed").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(project / "mixed" / f"{number}.png")
    record(project / "mixed", range(1))
    cases = [
        (("mine", "good/000.wav"), "good/000.wav is no folder; give the folder that holds the files"),
        (("mine", "bad"), "bad holds no recording that can be read .1 no recording in a format .*; put rec"),
        (("mine", "good", "--rate", "100"), "--rate is 100; take samples a second from 4000 to 48000"),
        (("mine", "good", "--seconds", "31"), "--seconds is 31; take a length from 0.05 to 30"),
        (("mine", "good", "--seconds", "nan"), "--seconds is nan; take a length"),
        (("mine", "good", "--size", "8"), "good holds recordings; leave out --size"),
        (("mine", "good", "--context", "64"), "good holds recordings; leave out --context"),
        (("mine", "mixed", "--rate", "8000"), "mixed holds pictures; leave out --rate"),
        (("mine", "good", "--by-class"), "good holds 0 classes, and --by-class needs two"),
    ]
    for arguments, sentence in cases:
        said = genloom("data", "add", *arguments)
        assert said.code == 2, (arguments, said)
        lines = said.err.strip().splitlines()
        assert len(lines) == 1, lines
        assert re.search(sentence, lines[0]), lines[0]
    assert ((project / "params.yaml").read_bytes(), (project / "dvc.yaml").read_bytes()) == before
