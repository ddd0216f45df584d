"""Pictures in Parquet: Hugging Face's columns and others, splits by file name, damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.example import Dropped, Entry, Source
from components.data.parquet import open_parquet
from components.errors import UserError
from components.image_rows import ParquetRow

Png = Callable[[int], bytes]


def row(**fields: Any) -> ParquetRow:
    return ParquetRow(source="parquet", path="raw", size=(8, 6), **fields)


def labels(source: Source) -> list[tuple[str | None, str | None]]:
    return [(entry.label, entry.split) for entry in source.entries if isinstance(entry, Entry)]


def hugging_face(path: Path, pictures: list[Any], numbers: list[int | None], names: list[str]) -> None:
    image = pa.array([{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(pictures)])
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": image, "label": pa.array(numbers, pa.int64())})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_hugging_face(tmp_path: Path, png: Png) -> None:
    path = tmp_path / "data.parquet"
    hugging_face(path, [png(0), png(1), None, png(3), png(4)], [1, 0, 0, -1, None], ["cat", "dog", "owl"])
    source = open_parquet(path, row())
    found = list(source.entries)
    assert [entry.label for entry in found if isinstance(entry, Entry)] == ["dog", "cat"]
    assert {entry.name: entry.reason for entry in found if isinstance(entry, Dropped)} == {
        "data.parquet#2": "without the bytes of a picture",
        "data.parquet#3": "with a label that has no name",
        "data.parquet#4": "without a label",
    }
    assert source.classes == ("cat", "dog", "owl")
    assert isinstance(found[0], Entry)
    assert found[0].load().shape == (3, 8, 6)
    assert source.total == 5


def test_plain_columns_and_official_splits(tmp_path: Path, png: Png) -> None:
    for split in ("train-00000-of-00001", "validation-00000-of-00001", "test"):
        table = pa.table({"img": [png(0)], "kind": ["owl"], "extra": [1]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    source = open_parquet(tmp_path, row(image="img", label="kind"))
    assert labels(source) == [("owl", "test"), ("owl", "train"), ("owl", "val")]
    assert source.ignored == ("extra",)
    assert labels(open_parquet(tmp_path, row(image="img"))) == [
        (None, "test"),
        (None, "train"),
        (None, "val"),
    ]


def test_folders_of_splits_and_dictionary_labels(tmp_path: Path, png: Png) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        table = pa.table({"image": [png(0)], "label": pa.array(["owl"]).dictionary_encode()})
        pq.write_table(table, tmp_path / split / "0.parquet")
    assert labels(open_parquet(tmp_path, row())) == [("owl", "test"), ("owl", "train")]


def test_names_that_mark_no_split(tmp_path: Path, png: Png) -> None:
    for name in ("part-0", "train-1"):
        pq.write_table(pa.table({"image": [png(0)]}), tmp_path / f"{name}.parquet")
    assert labels(open_parquet(tmp_path, row())) == [(None, None), (None, None)]


def test_a_truncated_file_is_named(tmp_path: Path, png: Png) -> None:
    path = tmp_path / "cats.parquet"
    pq.write_table(pa.table({"image": [png(seed) for seed in range(50)]}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cats\.parquet is no whole Parquet file .*; copy it again"):
        open_parquet(tmp_path, row())


def test_a_file_damaged_inside_is_named(tmp_path: Path, png: Png) -> None:
    path = tmp_path / "cats.parquet"
    pq.write_table(pa.table({"image": [png(seed) for seed in range(50)]}), path)
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cats\.parquet is no whole Parquet file"):
        list(open_parquet(tmp_path, row()).entries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "picture"}, r"There is no column in .*cats\.parquet “picture”"),
        ({"image": "label"}, "The column “label” of .* holds double, not encoded pictures"),
        ({}, "The column “label” of .* holds double, not texts or whole numbers"),
        ({"label": "lable"}, "did you mean label?"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, png: Png, fields: dict[str, str], message: str) -> None:
    pq.write_table(pa.table({"image": [png(0)], "label": [0.5]}), tmp_path / "cats.parquet")
    with pytest.raises(UserError, match=message):
        open_parquet(tmp_path, row(**fields))


@pytest.mark.parametrize(
    "damaged",
    [b"{", b"[]", b"\xff", b'{"info": []}', b'{"info": {"features": {"label": {"names": [1]}}}}', b"null"],
)
def test_damaged_metadata_is_as_none(tmp_path: Path, png: Png, damaged: bytes) -> None:
    table = pa.table({"image": [png(0)], "label": [7]}).replace_schema_metadata({"huggingface": damaged})
    pq.write_table(table, tmp_path / "cats.parquet")
    assert labels(open_parquet(tmp_path, row())) == [("7", None)]


@pytest.mark.parametrize("twice", ["image", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, png: Png, twice: str) -> None:
    columns = {"image": pa.array([png(0)]), "label": pa.array([1])}
    names = [*columns, twice]
    pq.write_table(pa.table([columns[name] for name in names], names=names), tmp_path / "cats.parquet")
    with pytest.raises(UserError, match=rf"cats\.parquet has two columns “{twice}”; rename one"):
        open_parquet(tmp_path, row())


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no \*\.parquet in"):
        open_parquet(tmp_path, row())


def test_a_label_as_text_that_is_no_class_is_left_out(tmp_path: Path, png: Png) -> None:
    hugging_face(tmp_path / "a.parquet", [png(0)], [1], ["cat", "dog"])
    texts = pa.table({"image": pa.array([png(1), png(2)]), "label": ["cat", "bird"]})
    pq.write_table(texts, tmp_path / "b.parquet")
    found = list(open_parquet(tmp_path, row()).entries)
    assert [entry.label for entry in found if isinstance(entry, Entry)] == ["dog", "cat"]
    assert [entry.reason for entry in found if isinstance(entry, Dropped)] == [
        "with a label that has no name"
    ]


def test_files_that_name_classes_in_another_order_are_refused(tmp_path: Path, png: Png) -> None:
    hugging_face(tmp_path / "a.parquet", [png(0)], [1], ["cat", "dog"])
    hugging_face(tmp_path / "b.parquet", [png(1)], [1], ["dog", "cat"])
    with pytest.raises(
        UserError, match=r"b\.parquet names other classes than .*a\.parquet, or in another order"
    ):
        open_parquet(tmp_path, row())


def test_folders_called_parquet_and_hidden_files_are_no_tables(tmp_path: Path, png: Png) -> None:
    """As Spark and macOS leave them."""
    (tmp_path / "train.parquet").mkdir()
    pq.write_table(
        pa.table({"image": [png(0)], "label": ["owl"]}), tmp_path / "train.parquet" / "part-0.parquet"
    )
    (tmp_path / "._train.parquet").write_bytes(b"finder")
    assert [label for label, _ in labels(open_parquet(tmp_path, row()))] == ["owl"]


def test_a_text_that_is_no_utf8_is_named(tmp_path: Path, png: Png) -> None:
    latin = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"image": [png(0)], "label": latin}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"A text in .*a\.parquet is not UTF-8"):
        list(open_parquet(tmp_path, row()).entries)
