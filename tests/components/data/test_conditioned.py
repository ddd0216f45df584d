"""Prepared pictures with sources and captions: columns, assets, revisions, and the batches that a family sees."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Pillow

from components import artifact
from components.data.dataset import Batches, Dataset, Position, file_hash, open_dataset
from components.data.prepare import prepare
from components.errors import UserError
from components.families.family import NOTHING, Task, kind_of
from components.modalities.caption import spoken
from components.modalities.conditions import PLAIN, load_conditions
from components.modalities.corruption import Corruption
from components.modalities.image import Image, to_uint8
from components.project import Project
from tests.components.families.rows import an_about

Bare = Callable[[dict[str, Any]], Project]
Draw = Callable[..., Path]


def prepared(bare: Bare, **rows: dict[str, Any]) -> list[Dataset]:
    project = bare(dict(rows))
    return [prepare(project, name, project.prepared / name) for name in rows]


def test_plain_pictures_are_prepared_as_before_and_the_spoilt_differ_by_their_conditions(bare: Bare) -> None:
    plain, hole, larger = prepared(
        bare,
        plain={"source": "digits"},
        hole={"source": "digits", "corrupt": {"mask": 0.5}},
        larger={"source": "digits", "corrupt": {"mask": 0.6}},
    )
    assert plain.revision == "d07e8c05" + plain.revision[8:], "what was trained on it is still this dataset"
    assert plain.tensors.conditions == PLAIN  # type: ignore[attr-defined]
    assert not (plain.folder / "conditions.json").exists()
    assert plain.shape.source is None
    assert len({plain.revision, hole.revision, larger.revision}) == 3
    assert hole.shape.source == (2, 8, 8)
    assert load_conditions(hole.folder).corruption == Corruption("mask", 0.5)
    assert [file_hash(path) for path in hole.paths("val")] != [file_hash(path) for path in plain.paths("val")]
    assert torch.equal(hole.whole("test").data, plain.whole("test").data)


def test_held_out_sources_are_the_same_each_time_and_those_of_training_never(bare: Bare) -> None:
    (dataset,) = prepared(bare, noisy={"source": "digits", "corrupt": {"noise": 25}})
    whole, few = dataset.whole("test"), dataset.whole("test", 7)
    assert whole.source is not None
    assert few.source is not None
    assert torch.equal(few.source, whole.source[:7])
    assert len((whole.source - whole.data).flatten(1).unique(dim=0)) == len(whole)
    rows = dataset.rows("train")
    (first, _), (second, _) = islice(Batches(dataset, "train", rows, seed=0).from_position(Position()), 2)
    spoilt = [_by_content(batch.data, batch.source) for batch in (first, second)]
    assert spoilt[0].keys() == spoilt[1].keys()
    assert not any(torch.equal(spoilt[0][key], spoilt[1][key]) for key in spoilt[0])
    ((again, _),) = islice(Batches(dataset, "train", rows, seed=0).from_position(Position()), 1)
    assert again.source is not None
    assert first.source is not None
    assert torch.equal(again.source, first.source)


def _by_content(data: torch.Tensor, source: torch.Tensor | None) -> dict[bytes, torch.Tensor]:
    assert source is not None
    return {row.numpy().tobytes(): made for row, made in zip(data, source, strict=True)}


def test_workers_share_the_same_sources(bare: Bare) -> None:
    (dataset,) = prepared(bare, noisy={"source": "digits", "corrupt": {"noise": 25}, "crop": 6, "flip": True})
    ((alone, _),) = islice(Batches(dataset, "train", 32, seed=5).from_position(Position()), 1)
    ranks = [
        next(iter(Batches(dataset, "train", 32, seed=5, rank=rank, world=2).from_position(Position())))[0]
        for rank in range(2)
    ]
    for name in ("data", "source"):
        merged = torch.stack([getattr(batch, name) for batch in ranks], dim=1).flatten(0, 1)
        assert torch.equal(merged, getattr(alone, name))


def test_a_crop_is_stored_whole_and_seen_in_part(bare: Bare) -> None:
    (dataset,) = prepared(bare, part={"source": "digits", "crop": 6, "corrupt": {"shrink": 2}})
    assert (dataset.shape.data, dataset.shape.source) == ((1, 6, 6), (1, 6, 6))
    stored = dataset.columns("test", 5)["image"]
    assert stored.shape == (5, 1, 8, 8)
    seen = dataset.whole("test", 5)
    assert (to_uint8(seen.data) == stored[:, :, 1:7, 1:7].permute(0, 2, 3, 1).numpy()).all()


def test_plain_rows_of_training_are_seen_as_held_out_ones(bare: Bare) -> None:
    (dataset,) = prepared(bare, part={"source": "digits", "crop": 6, "flip": True, "corrupt": {"noise": 25}})
    rows = dataset.rows("train")
    whole = dataset.whole("train")
    ((plain, _),) = islice(Batches(dataset, "train", rows, 0, plain=True).from_position(Position()), 1)
    ((drawn, _),) = islice(Batches(dataset, "train", rows, 0).from_position(Position()), 1)
    held = _by_content(whole.data, whole.source)
    assert _by_content(plain.data, plain.source).keys() == held.keys()
    assert _by_content(drawn.data, drawn.source).keys() != held.keys()
    assert plain.source is not None
    assert whole.source is not None
    assert {row.numpy().tobytes() for row in plain.source} == {row.numpy().tobytes() for row in whole.source}


def test_a_task_narrows_what_the_artifact_asks_and_the_conditions_go_with_it(
    bare: Bare, tmp_path: Path
) -> None:
    plain, spoilt = prepared(
        bare, plain={"source": "digits"}, spoilt={"source": "digits", "corrupt": {"mask": 0.5}}
    )
    for dataset in (plain, spoilt):
        shape = open_dataset(dataset.folder, Task.FREE).shape
        family = kind_of("vae")(latent=2, width=8, depth=0)
        folder = tmp_path / dataset.name
        artifact.save(folder, family, family.networks(shape), shape, an_about(shape), dataset.folder)
        files = set(artifact.read_manifest(folder)["files"])
        assert files == {"networks.safetensors"} | ({"conditions.json"} if dataset is spoilt else set())
        model = artifact.load(folder)
        assert isinstance(model.modality, Image)
        assert model.modality.conditions == load_conditions(dataset.folder)
    assert Image(plain.folder).agrees(Image(tmp_path / "plain"))
    assert not Image(plain.folder).agrees(Image(tmp_path / "spoilt"))
    (tmp_path / "spoilt" / "conditions.json").write_text("{}")
    with pytest.raises(UserError, match=r"conditions\.json was altered"):
        artifact.load(tmp_path / "spoilt")


def test_weights_that_ask_for_other_conditions_are_refused(bare: Bare) -> None:
    (dataset,) = prepared(bare, spoilt={"source": "digits", "corrupt": {"mask": 0.5}})
    with pytest.raises(
        UserError, match=r"take sources of \(1, 8, 8\) and conditions\.json in .* makes \(2, 8, 8\)"
    ):
        dataset.tensors.check(dataclasses.replace(dataset.shape, source=(1, 8, 8)))
    with pytest.raises(UserError, match=r"read captions of 9 tokens and .* holds none"):
        dataset.tensors.check(dataclasses.replace(dataset.shape, prompt=(4, 9)))
    (dataset.folder / "conditions.json").write_text('{"corruption": {"sort": "mask"}}')
    with pytest.raises(UserError, match=r"conditions\.json is damaged"):
        load_conditions(dataset.folder)


def png(seed: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(
        stream, "PNG"
    )
    return stream.getvalue()


CAPTIONS = dict(enumerate(["a red cat", "two  dogs\nplay", "ein Käse", "", None, "a red dog " * 9]))


@pytest.fixture
def captioned(bare: Bare) -> Callable[..., Dataset]:
    """Prepare 36 pictures with captions in Parquet, two of six without any."""

    def prepare_them(**fields: Any) -> Dataset:
        row = {"source": "parquet", "path": "raw.parquet", "size": [8, 8], "caption": "said"}
        project = bare({"mine": {**row, "split": {"val": 0.2, "test": 0.2}, **fields}})
        table = {
            "image": [png(seed) for seed in range(36)],
            "said": [CAPTIONS[seed % 6] for seed in range(36)],
            "label": ["even" if seed % 2 == 0 else "odd" for seed in range(36)],
        }
        pq.write_table(pa.table(table), project.root / "raw.parquet")
        return prepare(project, "mine", project.prepared / "mine")

    return prepare_them


@pytest.mark.parametrize("scheme", ["bpe", "characters", "bytes"])
def test_captions_become_tokens_and_come_back(captioned: Callable[..., Dataset], scheme: str) -> None:
    dataset = captioned(captions={"tokenizer": scheme, "vocabulary": 280})
    tokenizer = load_conditions(dataset.folder).captions
    assert tokenizer is not None
    assert dataset.shape.prompt is not None
    length, vocabulary = dataset.shape.prompt
    assert vocabulary == tokenizer.vocabulary
    assert dataset.classes == ("even", "odd")
    said = set()
    for split in ("train", "val", "test"):
        batch = dataset.whole(split)  # type: ignore[arg-type]
        assert batch.prompt is not None
        assert batch.prompt.dtype == torch.int64
        assert batch.prompt.shape[1] == length
        assert int(batch.prompt.max()) < vocabulary
        said |= {spoken(tokenizer, row) for row in batch.prompt}
    assert {"a red cat", "two dogs play"} <= said
    report = json.loads((dataset.folder / "report.json").read_text())
    assert report["dropped"] == {
        "without a caption": {
            "count": 12,
            "files": [f"raw.parquet#{seed}" for seed in range(36) if seed % 6 in (3, 4)],
        }
    }
    assert report["captions"]["tokens"] == length


def test_long_captions_are_cut_and_counted(captioned: Callable[..., Dataset]) -> None:
    dataset = captioned(captions={"tokenizer": "bytes", "length": 12})
    assert dataset.shape.prompt == (12, 257)
    prompt = dataset.whole("train").prompt
    assert prompt is not None
    assert bool((prompt == NOTHING).any())
    assert json.loads((dataset.folder / "report.json").read_text())["captions"]["cut"] == 12


def test_other_captions_are_another_dataset(
    captioned: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = captioned().revision
    assert first == captioned().revision
    assert first != captioned(captions={"vocabulary": 264}).revision
    monkeypatch.setitem(CAPTIONS, 0, "a blue cat")
    assert first != captioned().revision


def test_captions_that_are_not_there(bare: Bare, captioned: Callable[..., Dataset], draw: Draw) -> None:
    with pytest.raises(UserError, match=r"There is no column in .* “sayd”; did you mean said\?"):
        captioned(caption="sayd")
    with pytest.raises(UserError, match=r"The column “image” of .* holds binary, not texts"):
        captioned(caption="image")
    project = bare({"mine": {"source": "folder", "path": "raw", "caption": "text"}})
    draw(project.root / "raw", range(3))
    with pytest.raises(UserError, match=r"no metadata\.jsonl in .* that could hold the captions “text”"):
        prepare(project, "mine", project.prepared / "mine")
    (project.root / "raw" / "metadata.jsonl").write_text('{"file_name": "0000.png", "label": "a"}')
    with pytest.raises(UserError, match=r"There is no key in .*metadata\.jsonl “text”"):
        prepare(project, "mine", project.prepared / "mine")
