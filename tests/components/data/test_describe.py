"""What a person's files are taken for: text or pictures, its form, where a document ends, task and families."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.add import describe, goal
from components.data.describe import held
from components.data.survey import survey
from components.errors import UserError
from components.image_rows import FolderRow, ParquetRow
from components.project import Project
from components.rows import TextFilesRow

Bare = Callable[[dict[str, Any]], Project]
Draw = Callable[..., Path]
TURN = {"role": "user", "content": "hi"}
PROMPT, SOURCE = ("prompt", ("gpt", "lstm")), ("source", ("seq2seq",))


@pytest.mark.parametrize(
    ("file", "content", "form", "unit", "expected"),
    [
        ("a.jsonl", json.dumps({"messages": [TURN], "id": 1}), "chat", "document", PROMPT),
        ("a.json", json.dumps([{"source": "a", "target": "b"}]), "pairs", "document", SOURCE),
        ("a.jsonl", "\n" + json.dumps({"text": "a"}), "text", "document", PROMPT),
        ("a.py", "x = 1\n", "code", "document", PROMPT),
        ("a.txt", "a note\n", "text", "document", PROMPT),
        ("a.txt", "a line of a long text\n" * 4000, "text", "whole", PROMPT),
    ],
)
def test_form_unit_and_task(
    bare: Bare, file: str, content: str, form: str, unit: str, expected: tuple[str, tuple[str, ...]]
) -> None:
    project = bare({})
    (project.root / file).write_text(content)
    row = describe(project, project.root / file, {})
    assert isinstance(row, TextFilesRow)
    assert (row.path, row.form, row.unit) == (file, form, unit)
    assert goal(row) == expected
    found = survey(project, "mine", row)
    assert (found.entries, found.ignored) == (1, ("id",) if form == "chat" else ())


def test_packed_text_is_text_and_a_picture_beside_it_makes_pictures(bare: Bare, draw: Draw) -> None:
    project = bare({})
    folder = project.root / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "a"}).encode()))
    assert isinstance(describe(project, folder, {}), TextFilesRow)
    draw(folder, range(1))
    assert isinstance(describe(project, folder, {}), FolderRow)


@pytest.mark.parametrize(
    "content", [b'{"text": ', gzip.compress(b"{}" * 99)[:-9], b"\xff"], ids=["text", "gzip", "latin"]
)
def test_a_first_record_that_cannot_be_read(bare: Bare, content: bytes) -> None:
    project = bare({})
    (project.root / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 is not valid JSON"):
        describe(project, project.root / "a.jsonl", {})


def test_captions_are_recognised(bare: Bare, draw: Draw, png: Callable[[int], bytes]) -> None:
    project = bare({})
    folder = draw(project.root / "mine", range(2))
    lines = [{"file_name": f"000{seed}.png", "text": "a dog", "label": "dog"} for seed in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    row = describe(project, folder, {})
    assert isinstance(row, FolderRow)
    assert row.caption == "text"
    assert goal(row) == ("prompt", ("diffusion",))
    assert survey(project, "mine", row).ignored == ()
    table = pa.table({"image": [png(0)], "caption": ["a dog"], "text": ["?"], "label": [3]})
    pq.write_table(table, project.root / "mine.parquet")
    row = describe(project, project.root / "mine.parquet", {})
    assert isinstance(row, ParquetRow)
    assert row.caption == "caption"
    row = describe(project, project.root / "mine.parquet", {"caption": "text"})
    assert isinstance(row, ParquetRow)
    assert row.caption == "text"


@pytest.mark.parametrize("split", ["", "train"])
def test_pairs_are_recognised(bare: Bare, draw: Draw, split: str) -> None:
    project = bare({})
    for end in ("source", "target"):
        draw(project.root / "mine" / split / end, range(2) if end == "source" else range(3))
    row = describe(project, project.root / "mine", {})
    assert isinstance(row, FolderRow)
    assert row.form == "pairs"
    assert goal(row) == ("source", ("pix2pix",))
    found = survey(project, "mine", row)
    assert found.entries == 2
    assert found.dropped == {"without a picture of its name in source": 1}
    draw(project.root / "mine" / split / "other", range(1))
    row = describe(project, project.root / "mine", {})
    assert isinstance(row, FolderRow)
    assert row.form == "pictures"


def test_what_augment_writes_is_classes(bare: Bare, draw: Draw) -> None:
    project = bare({})
    for label in ("cat", "dog"):
        draw(project.root / "more" / label, range(3) if label == "cat" else range(3, 6))
    row = describe(project, project.root / "more", {})
    assert goal(row) == ("free", ("vae", "gan"))
    assert survey(project, "more", row).classes == {"cat": 3, "dog": 3}


@pytest.mark.parametrize("suffix", [".png", ".wav", ".mid"])
def test_molecules_that_say_something_of_other_files_do_not_hide_them(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "about.csv").write_text("file,SMILES\na,CCO\n")
    assert held(tmp_path, {}) == "molecules"
    for number in range(2):
        (tmp_path / f"{number}{suffix}").write_bytes(b"")
    assert held(tmp_path, {}) == {".png": "pictures", ".wav": "recordings", ".mid": "music"}[suffix]
    assert held(tmp_path, {"smiles": "SMILES"}) == "molecules"


@pytest.mark.parametrize(("file", "bound"), [("a.csv", 16384), ("a.smi", 2048)])
def test_an_option_out_of_bounds_is_one_sentence(bare: Bare, file: str, bound: int) -> None:
    project = bare({})
    (project.root / file).write_text("a\n1\n2\n")
    with pytest.raises(UserError, match=f"^--context is 60000 and should be .* {bound}; take another"):
        describe(project, project.root / file, {"context": 60000})
