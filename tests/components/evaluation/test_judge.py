from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from components.data.dataset import Dataset
from components.errors import FailedError
from components.evaluation.judge import Classifier, Features, Projection, features_for, rows


def said_by(dataset: Dataset, cache: Path) -> tuple[Features, list[str]]:
    said: list[str] = []
    return features_for(dataset, cache, said.append), said


def test_the_judge_knows_the_digits_and_says_how_well(judge: Features) -> None:
    assert judge.name == "judge"
    assert judge.accuracy is not None
    assert judge.accuracy >= 0.95


def test_the_judge_is_trained_once_for_a_revision(judge: Features, digits: Dataset, cache: Path) -> None:
    again, said = said_by(digits, cache)
    assert said == []
    assert again.digest == judge.digest
    data = digits.whole("test").data
    assert torch.equal(again.of(data), judge.of(data))
    assert judge.of(data).dtype == torch.float64
    assert [path.name for path in cache.glob("judge-*.safetensors")] == [
        f"judge-1-{digits.revision}.safetensors"
    ]


def test_the_same_judge_is_trained_again_and_a_broken_file_does_not_matter(
    judge: Features, digits: Dataset, tmp_path: Path
) -> None:
    (tmp_path / f"judge-1-{digits.revision}.safetensors").write_bytes(b"cut off")
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again, said = said_by(digits, tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert said[0] == "training the judge … 0%"
    assert again.digest == judge.digest


def test_nothing_is_kept_of_rows_that_were_replaced_meanwhile(digits: Dataset, tmp_path: Path) -> None:
    plain = dataclasses.replace(digits, classes=(), folder=tmp_path / "digits")
    shutil.copytree(digits.folder, plain.folder)

    def anew(_: str) -> None:
        manifest = plain.folder / "dataset.json"
        manifest.write_text(manifest.read_text().replace(digits.revision, "0" * 64))

    with pytest.raises(FailedError, match="prepared anew"):
        features_for(plain, tmp_path / "cache", anew)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_features_have_a_mean_variance_of_one_on_the_train_split(judge: Features, digits: Dataset) -> None:
    assert float(judge.of(digits.whole("train").data).var(0).mean()) == pytest.approx(1, rel=1e-4)


def test_without_classes_the_features_are_principal_components(digits: Dataset, tmp_path: Path) -> None:
    plain = dataclasses.replace(digits, classes=())
    found, _ = said_by(plain, tmp_path)
    train = plain.whole("train").data
    vectors = found.of(train)
    assert (found.name, found.accuracy, found.dimension) == ("pca", None, 64)
    assert float(vectors.var(0).mean()) == pytest.approx(1, rel=1e-4)
    variances = torch.linalg.eigvalsh(torch.cov(train.flatten(1).double().T)).flip(0)
    ratios = vectors.var(0) / vectors.var(0)[0]
    assert torch.allclose(ratios[:20], (variances / variances[0])[:20], atol=1e-3)
    assert said_by(plain, tmp_path)[1] == []


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 9), (1, 28, 28), (3, 33, 65), (3, 128, 128)])
def test_both_kinds_of_features_work_for_any_shape(shape: tuple[int, ...]) -> None:
    data = torch.rand(2, *shape) * 2 - 1
    classifier = Classifier(shape, 3)
    assert classifier(data).shape == (2, 3)
    assert classifier.raw(data).shape == (2, 64)
    assert Projection(shape, 7).raw(data).shape == (2, 7)


def test_rows_are_different_rows_of_the_split_in_an_order_by_seed(digits: Dataset) -> None:
    def ordered(count: int, seed: int) -> torch.Tensor:
        return torch.cat([batch.data for batch in rows(digits, "test", count, seed)])

    everything = ordered(10**6, 1)
    assert len(everything) == digits.rows("test")
    assert len(everything.unique(dim=0)) == len(digits.whole("test").data.unique(dim=0))
    assert torch.equal(ordered(100, 1), everything[:100])
    assert not torch.equal(ordered(100, 2), everything[:100])
