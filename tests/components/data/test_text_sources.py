"""Sources of text: the standard library's functions, files of every kind, and each fault as one sentence."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.data.documents import Document
from components.data.example import Dropped
from components.data.prepare import prepare
from components.data.stdlib import functions
from components.errors import UserError
from components.project import Project

Bare = Callable[[dict[str, Any]], Project]
ROW = {"source": "text", "path": "raw", "tokenizer": "bytes", "context": 32}


def raw(bare: Bare, files: dict[str, str | bytes], **fields: Any) -> Project:
    """A project whose dataset `mine` lies in the folder raw."""
    project = bare({"mine": {**ROW, **fields}})
    for name, content in files.items():
        path = project.root / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return project


def prepared(project: Project) -> dict[str, Any]:
    """Prepare `mine` and return its report."""
    folder = prepare(project, "mine", project.prepared / "mine").folder
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


MODULE = '''
import os

@decorated(
    1
)
def first(a):
    def inner():
        pass
    return inner

class Thing:
    """A thing."""
    class Part:
        async def run(self):
            return "é"
    if os.name:
        def method(self):
            return """
a string that stands further left
"""

lambda x: x
'''


def test_functions_and_methods_each_as_if_it_stood_alone() -> None:
    found = list(functions("m.py", MODULE))
    texts = [document.content for document in found if isinstance(document, Document)]
    assert texts == [
        "@decorated(\n    1\n)\ndef first(a):\n    def inner():\n        pass\n    return inner\n",
        'async def run(self):\n    return "é"\n',
    ]
    for text in texts:
        assert isinstance(text, str)
        ast.parse(text)
    assert [item.name for item in found] == ["m.py:4", "m.py:15", "m.py:18"]
    assert found[2] == Dropped("m.py:18", "a function that does not stand alone")
    assert list(functions("m.py", "def x(:")) == [Dropped("m.py", "no Python that this version reads")]


def test_the_standard_library_is_there_without_a_network(bare: Bare) -> None:
    project = bare({"mine": {"source": "stdlib", "limit": 120, "vocabulary": 400, "context": 64}})
    dataset = prepare(project, "mine", project.prepared / "mine")
    assert dataset.details["form"] == "code"
    assert dataset.shape.vocabulary == 400
    assert sum(dataset.details["documents"].values()) == pytest.approx(120, abs=12)  # less the duplicates
    assert "def " in (dataset.folder / "preview.txt").read_text()


def test_files_of_every_kind(bare: Bare) -> None:
    files: dict[str, str | bytes] = {
        **{f"{number}.txt": f"number {number}\r\nend\rlast" for number in range(20)},
        "sub/a.md.gz": gzip.compress(b"\xef\xbb\xbfpacked"),
        "a.jsonl": '{"text": "one"}\n\n{"text": ["two", "lines"]}\n',
        "b.json": '[{"text": "three"}]',
        "bad.txt": b"\xff\xfe\x00",
        "worse.jsonl": b'{"text": "\xff"}\n{"text": "fine"}\n{"text": "\\ud83d"}',
        "photo.png": b"\x89PNG",
        ".hidden.txt": "no",
    }
    report = prepared(raw(bare, files, split={"val": 0.2, "test": 0.3}))
    assert report["kept"] == 25
    assert report["dropped"] == {
        "half a character (a lone surrogate) in it": {"count": 1, "files": ["worse.jsonl:3"]},
        "no file of text": {"count": 1, "files": ["photo.png"]},
        "no valid UTF-8": {"count": 2, "files": ["bad.txt", "worse.jsonl:1"]},
    }
    shown = (bare({"mine": ROW}).prepared / "mine" / "preview.txt").read_text()
    assert "\nend\nlast" in shown
    assert "\ufeff" not in shown


def test_a_readme_beside_official_splits_is_no_part_of_them(bare: Bare) -> None:
    rows = {
        f"{split}-00000-of-00001.jsonl": "\n".join(json.dumps({"text": f"{split} {n}"}) for n in range(9))
        for split in ("train", "test")
    }
    report = prepared(raw(bare, {**rows, "README.md": "About it.", "LICENSE.txt": "Free."}, split={"val": 0}))
    assert report["splits"]["train"]["documents"] == report["splits"]["test"]["documents"] == 9
    aside = {"count": 2, "files": ["LICENSE.txt", "README.md"]}
    assert report["dropped"] == {"beside the official splits, and in none of them": aside}


@pytest.mark.parametrize("record", [{"source": "x", "target": []}, {"source": " ", "target": "x"}])
def test_a_pair_without_one_of_its_sides_is_left_out(bare: Bare, record: dict[str, Any]) -> None:
    records = [{"source": f"s{number}", "target": "t"} for number in range(40)]
    content = "\n".join(map(json.dumps, [*records, record]))
    report = prepared(raw(bare, {"a.jsonl": content}, form="pairs"))
    assert (report["read"], report["kept"]) == (41, 40)
    assert report["dropped"] == {"empty": {"count": 1, "files": ["a.jsonl:41"]}}


def test_files_by_address_from_a_mirror(bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\n".join(f"name{number}" for number in range(50)).encode()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "names.txt.gz").write_bytes(gzip.compress(content))
    monkeypatch.setenv("GENLOOM_MIRROR", str(tmp_path / "mirror"))
    file = {"url": "mirror:there/names.txt", "sha256": hashlib.sha256(content).hexdigest()}
    row = {**ROW, "path": None, "unit": "line"}
    assert prepared(bare({"mine": {**row, "files": {"all": file}}}))["kept"] == 50
    file["sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"^No folder of GENLOOM_MIRROR holds a names\.txt whose content has"):
        prepared(bare({"mine": {**row, "files": {"all": file}}}))


CHAT = '{"messages": [{"role": "user", "content": "hi"}, {"role": "boss", "content": "work"}]}'
FAULTS: list[tuple[dict[str, str | bytes], dict[str, Any], str]] = [
    ({"a.png": "x"}, {}, r"The folder .*raw holds no text \(\.json, .*; put some there"),
    (
        {"a.jsonl": '{"text": "a"}\n{"text": '},
        {},
        r"^a\.jsonl, line 2 is not valid JSON .*; mend or remove the",
    ),
    ({"a.json": "[1,"}, {}, r"^a\.json is not valid JSON"),
    ({"a.json": "[" * 10**5}, {}, r"^a\.json is not valid JSON"),
    ({"a.jsonl": "[" * 10**5}, {}, r"^a\.jsonl, line 1 is not valid JSON"),
    ({"a.json": '{"text": "a"}'}, {}, r"^a\.json holds no array of records"),
    ({"a.jsonl": "3"}, {}, r"^a\.jsonl, line 1 is no object"),
    ({"a.jsonl": '{"txt": "a"}'}, {}, r"^a\.jsonl, line 1: There is no field “text”; did you mean txt\?"),
    ({"a.jsonl": '{"text": 3}'}, {}, r"^a\.jsonl, line 1: the field “text” is 3, no text or list of texts"),
    ({"a.jsonl": '{"a": "x"}'}, {"template": "{a}{b}"}, r"^a\.jsonl, line 1: There is no field “b”"),
    (
        {"a.jsonl": CHAT},
        {"form": "chat"},
        r"^a\.jsonl, line 1 has the role “boss”; there are system, user, ass",
    ),
    ({"a.jsonl": '{"messages": 1}'}, {"form": "chat"}, r"^a\.jsonl, line 1: the field “messages” is no list"),
    ({"a.jsonl": '{"source": "x"}'}, {"form": "pairs"}, r"^a\.jsonl, line 1: There is no field “target”"),
    ({"a.txt": "x"}, {"form": "pairs"}, r"^a\.txt is plain text, and the form “pairs” needs records"),
    (
        {"a.jsonl": "{}"},
        {"unit": "line"},
        r"^a\.jsonl holds records, each a document; leave out the unit “line”",
    ),
    (
        {"a.txt": b"\xff"},
        {},
        r"has no text that can be read: 1 found, 1 left out \(1 no valid UTF-8\); put text",
    ),
    (
        {"a.txt": "x"},
        {},
        r"too few documents: 1 found, 0 left out, 1 kept, of which . to train, . to val, . to te",
    ),
    (
        {"a.txt": "short"},
        {"unit": "whole"},
        r"^The single text of “mine” is too short for its splits \(4 for train",
    ),
    ({"a.txt.gz": gzip.compress(b"x" * 99)[:-9]}, {}, r"^a\.txt\.gz is no whole gzip file"),
    ({"a.txt": "x"}, {"path": "raw/b.txt"}, r"^There is no .*b\.txt, where params\.yaml says"),
    ({"a.csv": "x"}, {"path": "raw/a.csv"}, r"^a\.csv is no file of text"),
]


@pytest.mark.parametrize(("files", "fields", "sentence"), FAULTS)
def test_each_fault_is_one_sentence(
    bare: Bare, files: dict[str, str | bytes], fields: dict[str, Any], sentence: str
) -> None:
    project = raw(bare, files, **fields)
    with pytest.raises(UserError, match=sentence) as caught:
        prepare(project, "mine", project.prepared / "mine")
    assert "\n" not in str(caught.value)
    assert list(project.prepared.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"keep": "(("}, r"keep is '\(\(': this regular expression does not compile \(.*\); mend it\.$"),
        ({"keep": "a{99999999999999}"}, r"this regular expression does not compile"),
        (
            {"vocabulary": 256},
            "it is smaller than the alphabet of 256 bytes with the special tokens; take at least",
        ),
        ({"context": 7}, r"context is 7: Input should be greater than or equal to 8\.$"),
        ({"contxt": 7}, "There is no field “contxt”; did you mean context"),
        ({"tokenizer": "words"}, r"tokenizer is 'words': Input should be 'characters', 'bytes' or 'bpe'"),
        ({"template": "plain"}, "it names no field; write one such as"),
        ({"template": "{a.b}"}, "is no plain name of a field"),
        ({"template": "{a"}, "template is '{a': "),
        ({"path": None}, "give either its path or its files, one of the two"),
        ({"split": {"test": 0}}, r"split\.test is 0: Input should be greater than 0"),
        ({"roles": {"A": "boss"}}, "“boss” is no role"),
    ],
)
def test_a_row_that_is_wrong_is_refused_when_it_is_read(
    bare: Bare, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        bare({"mine": {**ROW, **fields}})
    assert str(caught.value).startswith("In ")
    assert "\n" not in str(caught.value)


def test_files_and_splits_that_contradict_each_other(bare: Bare) -> None:
    file = {"url": "https://example.org/a.txt", "sha256": "0" * 64}
    row = {**ROW, "path": None}
    with pytest.raises(UserError, match="files has “all” beside official splits"):
        bare({"mine": {**row, "files": {"all": file, "test": file}}})
    with pytest.raises(UserError, match="files has no “train”; add it"):
        bare({"mine": {**row, "files": {"test": file}}})


def test_the_project_names_its_text_by_hash() -> None:
    """Every file of the text datasets that come with Genloom is pinned, and what no server has says so."""
    tables = YAML(typ="safe").load((Path(__file__).parents[3] / "params.yaml").read_text())
    files = [file for row in tables["datasets"].values() for file in row.get("files", {}).values()]
    assert {file["url"].partition(":")[0] for file in files} == {"https", "mirror"}
    assert all(len(file["sha256"]) == 64 for file in files)
