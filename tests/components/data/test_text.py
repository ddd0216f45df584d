"""Prepared text: packed documents, one text in order, pairs and chats; the counts; the same bytes every time."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from components.data.dataset import (
    SPLITS,
    Batches,
    Dataset,
    Position,
    Split,
    _row_groups,
    file_hash,
    open_dataset,
)
from components.data.documents import Document, Library
from components.data.prepare import prepare
from components.errors import UserError
from components.families.family import END, NOTHING
from components.modalities.text import Text
from components.project import Project
from components.rows import TextSplit

Bare = Callable[[dict[str, Any]], Project]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "the",
    "dog",
    "run",
    "over",
    "some",
    "hills",
    "toward",
    "home",
    "at",
    "night",
]


def essay(seed: int, words: int) -> str:
    """A text that no other seed has."""
    digest = hashlib.sha256(str(seed).encode()).digest()
    return f"{seed} " + " ".join(WORDS[(digest[place % 32] + place) % len(WORDS)] for place in range(words))


def lines_of(bare: Bare, lines: list[str], **fields: Any) -> Dataset:
    """Prepare lines of text, each a document."""
    row = {"source": "text", "path": "a.txt", "unit": "line", "tokenizer": "characters", "context": 64}
    project = bare({"mine": {**row, **fields}})
    (project.root / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare(project, "mine", project.prepared / "mine")


def text_of(dataset: Dataset) -> Text:
    found = dataset.tensors
    assert isinstance(found, Text)
    return found


def fresh_tokens(dataset: Dataset, split: Split) -> int:
    batch = dataset.whole(split)
    assert batch.length is not None
    assert batch.given is not None
    return int((batch.length - batch.given).sum())


def report_of(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset.folder / "report.json").read_text())
    return found


def test_documents_are_packed_whole_and_come_back(bare: Bare) -> None:
    lines = [essay(seed, 3 + seed % 6) for seed in range(200)]
    dataset = lines_of(bare, [*lines, lines[0], "", "  "])
    assert dataset.shape.data == (64,)
    assert dataset.shape.prompt == (64, dataset.shape.vocabulary)
    found: list[str] = []
    for split in SPLITS:
        for row in dataset.whole(split).data.tolist():
            row = [token for token in row if token != NOTHING]
            assert row[0] == row[-1] == END
            ends = [place for place, token in enumerate(row) if token == END]
            for first, last in itertools.pairwise(ends):
                found.append(text_of(dataset).tokenizer.decode(row[first:last]))
    assert sorted(found) == sorted(lines)
    report = report_of(dataset)
    assert (report["read"], report["kept"]) == (203, 200)
    assert report["dropped"] == {
        "empty": {"count": 2, "files": ["a.txt:202", "a.txt:203"]},
        "the same text as another": {"count": 1, "files": ["a.txt:201"]},
    }
    for split in SPLITS:
        details = dataset.details
        assert details["tokens"][split] == details["characters"][split] + details["documents"][split]
        assert details["tokens"][split] == fresh_tokens(dataset, split)
        assert report["splits"][split]["padding"] < 0.2
    assert sum(dataset.details["characters"].values()) == sum(map(len, lines))
    assert "<|end|>" in (dataset.folder / "preview.txt").read_text()


def test_long_documents_are_cut_and_held_out_tokens_are_fresh_once(bare: Bare) -> None:
    lines = [essay(seed, 5 if seed % 2 else 60) for seed in range(120)]
    dataset = lines_of(bare, lines)
    for split in ("val", "test"):
        assert fresh_tokens(dataset, split) == dataset.details["tokens"][split]
    batch = dataset.whole("train")
    assert batch.length is not None
    assert int(batch.length.max()) == 64
    about = json.loads(pq.read_schema(dataset.paths("train")[0]).metadata[b"genloom"])
    assert 64 < about["longest"] <= 127
    seen: set[tuple[int, ...]] = set()
    stream = Batches(dataset, "train", 32, seed=1).from_position(Position())
    for _ in range(60):
        seen |= set(map(tuple, next(stream)[0].data.tolist()))
    assert len(seen) > 2 * dataset.rows("train")  # other crops of the same rows


@pytest.mark.parametrize("val", [0, 0.2])
@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_one_text_is_cut_in_order_and_every_held_out_token_is_fresh_once(
    bare: Bare, val: float, tokenizer: str
) -> None:
    row = {"source": "text", "path": "a.txt", "unit": "whole", "tokenizer": tokenizer, "vocabulary": 300}
    project = bare({"mine": {**row, "context": 33, "split": {"val": val, "test": 0.1}}})
    whole = "".join(f"{essay(seed, 9)} é床👋\n" for seed in range(60))
    (project.root / "a.txt").write_text(whole, encoding="utf-8")
    dataset = prepare(project, "mine", project.prepared / "mine")
    size = len(whole)
    cuts = [0, int(size * (1 - val - 0.1)), int(size * 0.9), size]
    for split, first, last in zip(SPLITS, cuts, cuts[1:], strict=False):
        details = dataset.details
        assert details["characters"][split] == last - first
        assert details["documents"][split] == (1 if last > first else 0)
        if split == "train" or first == last:
            continue
        assert fresh_tokens(dataset, split) == details["tokens"][split]
        batch = dataset.whole(split)
        assert batch.given is not None
        assert batch.length is not None
        tokens = batch.data[0, :1].tolist()
        for data, given, length in zip(batch.data, batch.given.tolist(), batch.length.tolist(), strict=True):
            assert data[:given].tolist() == tokens[-given:]  # what is given was there before
            tokens += data[given:length].tolist()
        assert text_of(dataset).tokenizer.decode(tokens) == whole[first:last]
    if tokenizer == "characters":
        assert dataset.details["tokens"]["test"] == dataset.details["characters"]["test"] - 1
    if not val:
        with pytest.raises(UserError, match="has no val split"):
            dataset.whole("val")


def test_pairs_keep_official_splits_and_count_what_is_cut(bare: Bare) -> None:
    row = {"source": "text", "path": "raw", "form": "pairs", "tokenizer": "characters", "context": 16}
    project = bare({"mine": {**row, "source_length": 8, "fields": {"target": "short"}, "split": {"val": 0}}})
    (project.root / "raw").mkdir()
    records = [{"source": ["ab", f"c{n}"], "short": [f"t{n}", "other"], "more": 1} for n in range(9)]
    records.append({"source": "a long, long source", "short": "fits"})
    records.append({"source": "x0", "short": "a target that is too long"})
    (project.root / "raw" / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    (project.root / "raw" / "test.json").write_text(json.dumps([{"source": "ab\r\nc0", "short": "t0"}]))
    dataset = prepare(project, "mine", project.prepared / "mine")
    report = report_of(dataset)
    assert dataset.shape.source == (8,)
    assert report["ignored_columns"] == ["more"]
    assert report["dropped"]["a target longer than the context"]["count"] == 1
    assert report["dropped"]["the same text as another"]["files"] == ["train.jsonl:1"]
    assert report["splits"]["train"]["truncated_sources"] == 1
    test, tokenizer = dataset.whole("test"), text_of(dataset).tokenizer
    assert test.source is not None
    assert tokenizer.decode([token for token in test.source[0].tolist() if token != NOTHING]) == "ab\nc0"
    assert test.data[0, :4].tolist() == [END, *tokenizer.encode("t0"), END]
    assert dataset.details["characters"]["test"] == 2
    assert dataset.rows("train") == 9


def test_each_target_can_be_a_pair(bare: Bare) -> None:
    row = {"source": "text", "path": "a.jsonl", "form": "pairs", "targets": "each", "context": 16}
    project = bare({"mine": {**row, "tokenizer": "bytes", "split": {"val": 0, "test": 0.3}}})
    records = [{"source": str(number), "target": ["a", "b"]} for number in range(12)]
    (project.root / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    dataset = prepare(project, "mine", project.prepared / "mine")
    assert sum(dataset.rows(split) for split in SPLITS) == 24
    seen = {split: sources_of(dataset, split) for split in ("train", "test")}
    assert all(count == 2 for found in seen.values() for count in found.values())
    assert not seen["train"].keys() & seen["test"].keys(), "a test asks nothing that was trained on"


def sources_of(dataset: Dataset, split: Split) -> Counter[bytes]:
    found = dataset.whole(split).source
    assert found is not None
    return Counter(row.numpy().tobytes() for row in found)


def test_a_source_in_two_official_splits_is_held_out_with_all_its_targets(tmp_path: Path) -> None:
    def pair(source: str, target: str, split: Split) -> Document:
        return Document("", [["source", source], ["target", target]], split)

    with Library(tmp_path / "spool") as library:
        for document in (pair("a", "1", "train"), pair("a", "2", "test"), pair("b", "1", "train")):
            assert library.add(document) is None
        found = library.splits(TextSplit(val=0, test=0.1))
        assert sorted(library.content(key)[1][1] for key in found["test"]) == ["1", "2"]  # type: ignore[index]
        assert [library.content(key)[0][1] for key in found["train"]] == ["b"]  # type: ignore[index]


def test_rows_are_counted_with_their_padding(bare: Bare) -> None:
    row = {"source": "text", "path": "a.jsonl", "form": "pairs", "context": 64, "source_length": 100}
    project = bare({"mine": {**row, "tokenizer": "bytes", "split": {"val": 0, "test": 0.3}}})
    records = [{"source": str(number), "target": "ab"} for number in range(30)]
    (project.root / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    dataset = prepare(project, "mine", project.prepared / "mine")
    groups = _row_groups([pq.ParquetFile(path) for path in dataset.paths("train")], dataset.tensors)
    columns = dataset.columns("train")
    size = sum(columns[name].numel() * 4 for name in ("tokens", "source"))
    assert sum(group.bytes for group in groups) >= size


def test_chats_by_the_template_with_names_of_their_own(bare: Bare) -> None:
    row = {"source": "text", "path": "a.jsonl", "form": "chat", "tokenizer": "bytes", "context": 64}
    fields = {"messages": "turns", "role": "speaker", "content": "said"}
    project = bare({"mine": {**row, "fields": fields, "roles": {"A": "user", "B": "assistant"}}})
    chats = [
        {"turns": [{"speaker": "A", "said": f"hi {n}"}, {"speaker": "B", "said": f"yes {n}"}]}
        for n in range(60)
    ]
    (project.root / "a.jsonl").write_text("\n".join(map(json.dumps, chats)))
    dataset = prepare(project, "mine", project.prepared / "mine")
    tokenizer = text_of(dataset).tokenizer
    shown = (dataset.folder / "preview.txt").read_text()
    assert "<|end|><|user|>hi " in shown
    assert "<|stop|><|assistant|>yes " in shown
    assert tokenizer.template is not None
    first = dataset.whole("test").data[0].tolist()
    one = first[: first.index(END, 1) + 1]
    assert one[:2] == [END, tokenizer.id_of("<|user|>")]
    assert one[-2:] == [tokenizer.turn, END]
    assert dataset.details["characters"]["train"] == sum(
        len(tokenizer.decode(part)) for part in _documents(dataset.whole("train").data)
    )


def _documents(data: torch.Tensor) -> list[list[int]]:
    """The tokens between the ENDs of all rows."""
    found = []
    for row in data.tolist():
        ends = [place for place, token in enumerate(row) if token == END]
        found += [row[first + 1 : last] for first, last in itertools.pairwise(ends)]
    return found


def test_a_template_and_a_form_to_keep(bare: Bare) -> None:
    row = {"source": "text", "path": "a.jsonl.gz", "template": "{title}:\n{lines}", "context": 32}
    keep = r"\w+:\n(.{3}\n?){2}"
    project = bare({"mine": {**row, "tokenizer": "characters", "keep": keep, "limit": 40}})
    poems = [{"title": f"t{n}", "lines": ["abc", f"{n:03d}"] if n % 3 else ["abcd"]} for n in range(90)]
    with gzip.open(project.root / "a.jsonl.gz", "wt") as stream:
        stream.write("\n".join(map(json.dumps, poems)))
    dataset = prepare(project, "mine", project.prepared / "mine")
    report = report_of(dataset)
    assert report["kept"] == 40
    assert report["dropped"]["not of the form that “keep” asks"]["count"] == 20
    assert ":\nabc\n0" in (dataset.folder / "preview.txt").read_text()


def test_the_tokenizer_sees_training_text_only(bare: Bare) -> None:
    row = {"source": "text", "path": "raw", "tokenizer": "characters", "context": 8, "split": {"val": 0}}
    project = bare({"mine": row})
    (project.root / "raw" / "train").mkdir(parents=True)
    (project.root / "raw" / "test").mkdir()
    (project.root / "raw" / "train" / "a.md").write_text("abc")
    (project.root / "raw" / "test" / "a.txt").write_text("abxyc")
    dataset = prepare(project, "mine", project.prepared / "mine")
    assert dataset.shape.vocabulary == 5
    assert report_of(dataset)["splits"]["test"]["unknown_characters"] == 2


def test_the_same_input_gives_the_same_bytes(bare: Bare) -> None:
    lines = [essay(seed, 20) for seed in range(150)]
    first = lines_of(bare, lines, tokenizer="bpe", vocabulary=300)
    before = {path.name: file_hash(path) for path in first.folder.rglob("*") if path.is_file()}
    second = lines_of(bare, lines[::-1], tokenizer="bpe", vocabulary=300)
    assert {path.name: file_hash(path) for path in second.folder.rglob("*") if path.is_file()} == before
    assert first.revision == second.revision
    assert lines_of(bare, lines[1:], tokenizer="bpe", vocabulary=300).revision != first.revision
    assert lines_of(bare, lines, tokenizer="bpe", vocabulary=301).revision != first.revision


def test_an_altered_tokenizer_is_noticed(bare: Bare) -> None:
    dataset = lines_of(bare, [essay(seed, 5) for seed in range(50)])
    path: Path = dataset.folder / "tokenizer.json"
    path.write_text(path.read_text().replace("WordLevel", "WordLeveL", 1))
    with pytest.raises(
        UserError, match=r"tokenizer\.json is missing or was altered; type genloom data prepare"
    ):
        open_dataset(dataset.folder)


def test_large_text_has_row_groups_and_files(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.encoding.GROUP_ROWS", 2)
    monkeypatch.setattr("components.data.encoding.FILE_BYTES", 4 * 64 * 8)
    dataset = lines_of(bare, [essay(seed, 5) for seed in range(100)])
    assert len(dataset.paths("train")) > 2
    assert math.ceil(pq.read_metadata(dataset.paths("train")[0]).num_rows / 2) > 1
    assert fresh_tokens(dataset, "test") == dataset.details["tokens"]["test"]
