"""Splits are decided by content alone, and each content is kept once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.spool import Spool, content_id, split_of
from components.row import Split as Shares

SHAPE = (1, 4, 4)


def pictures(count: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8))


def cut(path: Path, images: list[np.ndarray[Any, Any]]) -> dict[str, set[str]]:
    with Spool(path, SHAPE) as spool:
        for image in images:
            spool.add(image, None, None)
        return {split: set(keys) for split, keys in spool.splits(Shares(val=0.2, test=0.1)).items()}


def test_a_picture_never_wanders_when_data_grows(tmp_path: Path) -> None:
    images = pictures(2000)
    small, large = cut(tmp_path / "a", images[:500]), cut(tmp_path / "b", images)
    shuffled = cut(tmp_path / "c", images[::-1])
    assert all(small[split] < large[split] for split in small)
    assert shuffled == large
    assert 330 < len(large["val"]) < 470
    assert 150 < len(large["test"]) < 250
    assert sum(len(keys) for keys in large.values()) == 2000


def test_shape_is_part_of_the_content() -> None:
    flat = np.zeros(16, np.uint8)
    assert content_id(flat.reshape(1, 4, 4)) != content_id(flat.reshape(1, 2, 8))


@pytest.mark.parametrize(("share", "wanted"), [(0.05, "val"), (0.15, "test"), (0.5, "train")])
def test_only_the_missing_splits_are_cut_from_train(share: float, wanted: str) -> None:
    key = f"{int(share * 2**64):016x}".ljust(64, "0")
    shares = Shares(val=0.1, test=0.1)
    assert split_of(key, None, {None}, shares) == wanted
    assert split_of(key, "train", {"train", "val", "test"}, shares) == "train"
    assert split_of(key, "train", {"train", "test"}, shares) == ("val" if wanted == "val" else "train")
    assert split_of(key, "train", {"train", "val"}, shares) == ("test" if wanted == "test" else "train")
    assert split_of(key, "test", {"train", "test"}, shares) == "test"


def test_a_content_in_two_official_splits_stays_in_the_held_out_one(tmp_path: Path) -> None:
    image, other = pictures(2)
    with Spool(tmp_path / "spool", SHAPE) as spool:
        assert spool.add(image, "a", "train") is None
        assert spool.add(other, "a", "train") is None
        assert spool.add(image, "b", "test") == "the same picture as another in a different class"
        assert spool.add(image, "b", "train") == "the same picture as another"
        splits = spool.splits(Shares())
        assert splits["test"] == [content_id(image)]
        assert spool.label(content_id(image)) == "b"
        assert (spool.pictures([content_id(other), content_id(image)]) == np.stack([other, image])).all()
    assert not (tmp_path / "spool").exists()


def test_pairs_of_one_target_stand_in_one_split(tmp_path: Path) -> None:
    targets, sources = pictures(50), iter(pictures(150, seed=1))
    with Spool(tmp_path / "spool", (2, 4, 4), target=1) as spool:
        for target in targets:
            for _ in range(3):
                assert spool.add(np.concatenate([target, next(sources)]), None, None) is None
        splits = spool.splits(Shares(val=0.2, test=0.2))
        assert {len(keys) % 3 for keys in splits.values()} == {0}
        assert sum(len(keys) for keys in splits.values()) == 150
        found = [{picture[0].tobytes() for picture in spool.pictures(keys)} for keys in splits.values()]
    assert all(found)
    assert sum(map(len, found)) == 50, "no target stands in two splits"


def test_pairs_of_a_target_in_two_official_splits_are_all_held_out(tmp_path: Path) -> None:
    target, *sources = pictures(4)
    with Spool(tmp_path / "spool", (2, 4, 4), target=1) as spool:
        for source, split in zip(sources, ("train", "test", "train"), strict=True):
            assert spool.add(np.concatenate([target, source]), None, split) is None  # type: ignore[arg-type]
        assert [len(keys) for keys in spool.splits(Shares()).values()] == [0, 0, 3]


def test_classes_that_are_numbers_are_in_order_of_size(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", SHAPE) as spool:
        for image, label in zip(pictures(4), ["10", "9", "a", "2"], strict=True):
            spool.add(image, label, None)
        assert spool.classes() == ["2", "9", "10", "a"]


def test_the_revision_is_of_contents_labels_splits_and_classes(tmp_path: Path) -> None:
    first, second = pictures(2)

    def revision(classes: list[str], *rows: tuple[Any, str, Any]) -> str:
        with Spool(tmp_path / "spool", SHAPE) as spool:
            for row in rows:
                spool.add(*row)
            return spool.revision(spool.splits(Shares()), classes)

    whole = revision(["a", "b"], (first, "a", "train"), (second, "b", "test"))
    assert whole == revision(["a", "b"], (second, "b", "test"), (first, "a", "train"))
    assert whole != revision(["a", "b"], (first, "b", "train"), (second, "b", "test"))
    assert whole != revision(["a", "b"], (first, "a", "test"), (second, "b", "test"))
    assert whole != revision(["b", "a"], (first, "a", "train"), (second, "b", "test"))
    assert whole != revision(["a", "b"], (first, "a", "train"))
