"""Batches: every row once an epoch, the same stream for every world size, resumable anywhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from components.data import dataset as module
from components.data.dataset import Batches, Dataset, Position, open_dataset
from components.errors import UserError
from components.families.family import Batch


@pytest.fixture
def digits(project: Path) -> Dataset:
    return open_dataset(project / "data" / "prepared" / "digits")


@pytest.fixture(params=[module.WINDOW, 20_000], ids=["one window", "many windows"])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "WINDOW", request.param)
    return int(request.param)


def take(batches: Batches, count: int, start: Position | None = None) -> list[tuple[Batch, Position]]:
    return list(itertools.islice(batches.from_position(start or Position()), count))


@pytest.mark.usefixtures("window")
def test_an_epoch_holds_every_row_once_and_the_next_one_is_in_another_order(digits: Dataset) -> None:
    rows = digits.rows("train")
    (first, _), (second, _) = take(Batches(digits, "train", rows, seed=3), 2)
    whole = digits.whole("train").data.flatten(1)
    for epoch in (first, second):
        assert sorted(map(tuple, epoch.data.flatten(1).tolist())) == sorted(map(tuple, whole.tolist()))
    assert not torch.equal(first.data, second.data)
    assert not torch.equal(first.data.flatten(1), whole)


@pytest.mark.usefixtures("window")
def test_any_position_can_be_resumed(digits: Dataset) -> None:
    straight = take(Batches(digits, "train", 100, seed=1), 40)
    for count in (1, 14, 15, 33):
        position = straight[count - 1][1]
        ((resumed, _),) = take(Batches(digits, "train", 100, seed=1), 1, position)
        assert torch.equal(resumed.data, straight[count][0].data)
        assert torch.equal(resumed.label, straight[count][0].label)


@pytest.mark.usefixtures("window")
def test_workers_share_the_same_global_batches(digits: Dataset) -> None:
    alone = take(Batches(digits, "train", 96, seed=5), 20)
    ranks = [take(Batches(digits, "train", 96, seed=5, rank=rank, world=3), 20) for rank in range(3)]
    for step, (batch, position) in enumerate(alone):
        merged = torch.stack([ranks[rank][step][0].data for rank in range(3)], dim=1).flatten(0, 1)
        assert torch.equal(merged, batch.data)
        assert {ranks[rank][step][1] for rank in range(3)} == {position}


def test_seeds_differ(digits: Dataset) -> None:
    one, other = (take(Batches(digits, "train", 64, seed=seed), 1)[0][0] for seed in (0, 1))
    assert not torch.equal(one.data, other.data)


def test_rows_are_in_the_range_that_families_expect(digits: Dataset) -> None:
    batch = digits.whole("test")
    assert batch.data.dtype == torch.float32
    assert float(batch.data.min()) == -1.0
    assert float(batch.data.max()) == 1.0
    assert batch.label is not None
    assert set(batch.label.tolist()) == set(range(10))


def test_altered_prepared_data_is_refused(digits: Dataset) -> None:
    path = digits.paths("train")[0]
    path.chmod(0o644)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="was altered; type genloom data prepare digits --force"):
        open_dataset(digits.folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": {}}'])
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset.json").write_text(content)
    with pytest.raises(
        UserError, match=r"dataset\.json is damaged; type genloom data prepare mine --force\.$"
    ):
        open_dataset(tmp_path / "mine")
