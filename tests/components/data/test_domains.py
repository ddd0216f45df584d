"""Pairs of a person's own, in folders or in Parquet, and two datasets as two domains."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.data.example import Dropped, silent
from components.data.prepare import prepare
from components.data.sources import open_source
from components.errors import UserError
from components.modalities.corruption import Corruption
from components.modalities.image import to_uint8
from components.project import Project

Bare = Callable[[dict[str, Any]], Project]
Draw = Callable[..., Path]
PAIRS = {
    "source": "folder",
    "path": "raw",
    "form": "pairs",
    "size": [8, 8],
    "split": {"val": 0.2, "test": 0.2},
}


def colour(seed: int) -> tuple[int, int, int]:
    red, green, blue = np.random.default_rng(seed).integers(0, 256, 3).tolist()
    return red, green, blue


def one(seed: int, invert: bool = False) -> Image.Image:
    """A picture of one colour, or of its opposite."""
    red, green, blue = colour(seed)
    return Image.new("RGB", (8, 8), (255 - red, 255 - green, 255 - blue) if invert else (red, green, blue))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def draw_pairs(folder: Path, seeds: range) -> None:
    for name in ("target", "source"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        one(seed).save(folder / "target" / f"{seed}.png")
        one(seed, invert=True).save(folder / "source" / f"{seed}.bmp")


def check_opposites(project: Project, name: str) -> None:
    dataset = prepare(project, name, project.prepared / name)
    assert dataset.shape.data == dataset.shape.source == (3, 8, 8)
    assert dataset.tensors.conditions.corruption == Corruption("pairs")  # type: ignore[attr-defined]
    rows = 0
    for split in ("train", "val", "test"):
        batch = dataset.whole(split)  # type: ignore[arg-type]
        assert batch.source is not None
        torch.testing.assert_close(batch.source, -batch.data)
        rows += len(batch)
    assert rows == 30


def test_pairs_in_two_folders(bare: Bare) -> None:
    project = bare({"mine": PAIRS})
    draw_pairs(project.root / "raw", range(30))
    for name, file in (("target", "x.png"), ("source", "y.png"), ("other", "z.png"), ("target", "3.tif")):
        (project.root / "raw" / name).mkdir(exist_ok=True)
        one(99).save(project.root / "raw" / name / file)
    check_opposites(project, "mine")
    report = json.loads((project.prepared / "mine" / "report.json").read_text())
    assert {reason: found["files"] for reason, found in report["dropped"].items()} == {
        "in neither of the folders source and target": ["other/z.png"],
        "of the same name as another but for its suffix": ["target/3.tif"],
        "without a picture of its name in source": ["target/x.png"],
        "without a picture of its name in target": ["source/y.png"],
    }


def test_pairs_in_official_splits(bare: Bare) -> None:
    project = bare({"mine": PAIRS})
    for split, seeds in (("train", range(20)), ("test", range(20, 30))):
        draw_pairs(project.root / "raw" / split, seeds)
    check_opposites(project, "mine")
    source = open_source(project, project.dataset("mine"), silent)  # type: ignore[arg-type]
    found = [entry.split for entry in source.entries if not isinstance(entry, Dropped)]
    assert (found.count("train"), found.count("test")) == (20, 10)


def test_pairs_in_parquet(bare: Bare) -> None:
    row = {"source": "parquet", "path": "raw.parquet", "size": [8, 8], "image": "after", "origin": "before"}
    project = bare({"mine": {**row, "split": {"val": 0.2, "test": 0.2}}})
    before = [encoded(one(seed, invert=True)) for seed in range(31)]
    after = [encoded(one(seed)) for seed in range(30)]
    pq.write_table(pa.table({"before": before, "after": [*after, None]}), project.root / "raw.parquet")
    check_opposites(project, "mine")


def test_views_keep_pairs_together(bare: Bare) -> None:
    project = bare({"mine": {**PAIRS, "crop": 6, "flip": True, "rotate": True}})
    rng = np.random.default_rng(0)
    for name in ("target", "source"):
        (project.root / "raw" / name).mkdir(parents=True)
    for seed in range(30):
        levels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(levels).save(project.root / "raw" / "target" / f"{seed}.png")
        Image.fromarray(255 - levels).save(project.root / "raw" / "source" / f"{seed}.png")
    dataset = prepare(project, "mine", project.prepared / "mine")
    columns = dataset.columns("train")
    columns["draw"] = torch.randint(2**62, (len(columns["image"]),))
    batch = dataset.tensors.batch(columns)
    assert batch.source is not None
    assert batch.data.shape[1:] == (3, 6, 6)
    torch.testing.assert_close(batch.source, -batch.data)


def test_one_end_is_missing(bare: Bare) -> None:
    project = bare({"mine": PAIRS})
    (project.root / "raw" / "target").mkdir(parents=True)
    one(0).save(project.root / "raw" / "target" / "0.png")
    with pytest.raises(UserError, match=r"There is no folder “source” with pictures in .*raw; pairs need"):
        prepare(project, "mine", project.prepared / "mine")


def two(bare: Bare, draw: Draw, **fields: Any) -> Project:
    """Digits as the target, noise in two classes as the origin."""
    folder = {"source": "folder", "path": "raw", "size": [64, 48], "split": {"val": 0.2, "test": 0.2}}
    domains = {"digits": {"source": "digits"}, "mine": folder}
    project = bare(
        {**domains, "both": {"source": "unpaired", "target": "digits", "origin": "mine", **fields}}
    )
    draw(project.root / "raw" / "3", range(20))
    draw(project.root / "raw" / "x", range(20, 40))
    return project


def test_two_domains_are_brought_to_the_size_of_the_target(bare: Bare, draw: Draw) -> None:
    project = two(bare, draw)
    dataset = prepare(project, "both", project.prepared / "both")
    plain = prepare(project, "digits", project.prepared / "digits")
    assert dataset.shape.data == dataset.shape.source == (1, 8, 8)
    assert dataset.classes == plain.classes
    assert dataset.details["origin_classes"] == ["3", "x"]
    assert dataset.revision != plain.revision
    used: set[bytes] = set()
    for split in ("train", "val", "test"):
        batch, whole = dataset.whole(split), plain.whole(split)  # type: ignore[arg-type]
        assert torch.equal(batch.data, whole.data)
        assert batch.source is not None
        found = {row.tobytes() for row in to_uint8(batch.source)}
        assert not used & found, "a picture of the origin stays in its split"
        used |= found
        assert set(dataset.columns(split)["source_label"].tolist()) == {3, -1}  # type: ignore[arg-type]
    assert len(used) == 40
    report = json.loads((dataset.folder / "report.json").read_text())
    assert report["origin"]["used"] == 40
    assert sorted(path.name for path in dataset.folder.iterdir()) == [
        *("conditions.json", "dataset.json", "preview.png", "report.json", "test", "train", "val")
    ]


def test_two_domains_of_another_size_and_channels(bare: Bare, draw: Draw) -> None:
    project = two(bare, draw, size=[12, 16], channels=3)
    dataset = prepare(project, "both", project.prepared / "both")
    assert dataset.shape.data == dataset.shape.source == (3, 12, 16)
    data = dataset.whole("test").data
    assert torch.equal(data[:, 0], data[:, 1])


def test_sources_of_other_classes_have_no_label(bare: Bare, draw: Draw) -> None:
    project = two(bare, draw)
    (project.root / "raw" / "3").rename(project.root / "raw" / "y")
    dataset = prepare(project, "both", project.prepared / "both")
    assert dataset.details["origin_classes"] == ["x", "y"]
    assert "source_label" not in dataset.columns("test")
    assert "label" in dataset.columns("test")


def test_a_domain_with_too_few_pictures_is_named(bare: Bare, draw: Draw) -> None:
    project = two(bare, draw)
    for path in sorted((project.root / "raw").rglob("*.png"))[1:]:
        path.unlink()
    with pytest.raises(UserError, match="The dataset “mine” has too few pictures"):
        prepare(project, "both", project.prepared / "both")
