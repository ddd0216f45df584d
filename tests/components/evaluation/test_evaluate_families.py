"""Every family of pictures can be measured by what its requests carry; nothing here is trained but the judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from components.artifact import save
from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.evaluate import evaluate
from components.evaluation.report import sentence
from components.families.diffusion import Diffusion
from components.families.family import Kind, Task, kind_of, names
from components.families.gan import GAN
from components.modalities.corruption import Corruption
from components.modalities.image import Image
from tests.components.evaluation.pictures import shapes
from tests.components.families.rows import an_about

SIZES = {"train": 240, "val": 12, "test": 110}
OWN = {
    Task.FREE: "pca_frechet_distance",
    Task.LABEL: "class_accuracy",
    Task.PROMPT: "caption_reciprocal_rank",
    Task.SOURCE: "psnr",
}
CASES = [
    pytest.param(name, task, id=f"{name}-{task}")
    for name in names()
    if Kind.IMAGE in kind_of(name).kinds
    for task in sorted(kind_of(name).tasks)
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Dataset]:
    folder = tmp_path_factory.mktemp("data")
    plain = shapes(folder / "plain", sizes=SIZES)
    captioned = shapes(folder / "captioned", captions=True, sizes=SIZES)
    hidden = shapes(folder / "hidden", corruption=Corruption("mask", 0.5), sizes=SIZES)
    unclassed = {Task.FREE: plain, Task.PROMPT: captioned, Task.SOURCE: hidden}
    without = {task: dataclasses.replace(found, classes=()) for task, found in unclassed.items()}
    return {**without, Task.LABEL: plain}


@pytest.fixture(scope="module")
def cache(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "task"), CASES)
def test_an_untrained_model_of_each_family_is_measured(
    name: str, task: Task, datasets: dict[Task, Dataset], cache: Path, tmp_path: Path
) -> None:
    dataset, family = datasets[task], kind_of(name)(**kind_of(name).small)
    shape = dataset.shape.narrowed(task)
    torch.manual_seed(0)
    about = dataclasses.replace(an_about(shape), classes=dataset.classes)
    save(tmp_path / "artifact", family, family.networks(shape), shape, about, dataset.folder)
    try:
        report = evaluate(tmp_path / "artifact", dataset, tmp_path / "report", cache, samples=100, weighed=8)
    except UserError as refusal:
        pytest.fail(str(refusal))
    assert OWN[task] in report.metrics
    assert all((tmp_path / "report" / picture).is_file() for picture in report.pictures)
    how = sentence(report)
    assert ("asked for by" in how) == (task is not Task.FREE)
    assert how.startswith("100 samples")
    assert set(report.metrics) <= set(Image.reported())
    batch = dataset.whole("test", 2)
    networks = family.networks(shape)
    assert ("negative_elbo_nats" in report.metrics) == (family.nats(networks, batch) is not None)


def written(folder: Path, dataset: Dataset, task: Task, classes: Sequence[str] = ()) -> Path:
    """A model for `task`, made for this dataset or for one with other `classes`."""
    family, shape = Diffusion(**Diffusion.small), dataset.shape.narrowed(task)
    about = dataclasses.replace(an_about(shape), classes=classes or dataset.classes)
    save(folder, family, family.networks(shape), shape, about, dataset.folder)
    return folder


def test_a_model_of_other_classes_is_refused(
    datasets: dict[Task, Dataset], cache: Path, tmp_path: Path
) -> None:
    dataset = datasets[Task.LABEL]
    model = written(tmp_path / "model", dataset, Task.LABEL, ["white", "blue", "green", "red"])
    with pytest.raises(
        UserError, match="by classes white, blue, green, red and the dataset “plain” has red, green"
    ):
        evaluate(model, dataset, tmp_path / "report", cache, samples=100)


def test_a_model_that_wants_what_the_rows_have_not_is_refused(
    datasets: dict[Task, Dataset], cache: Path, tmp_path: Path
) -> None:
    model = written(tmp_path / "model", datasets[Task.SOURCE], Task.SOURCE)
    with pytest.raises(
        UserError, match="was given sources that the dataset “captioned” now makes in another way"
    ):
        evaluate(model, datasets[Task.PROMPT], tmp_path / "report", cache, samples=100)
    model = written(tmp_path / "other", datasets[Task.PROMPT], Task.PROMPT)
    with pytest.raises(UserError, match="by captions of 4 tokens of 12 and the dataset “plain” has none"):
        evaluate(model, datasets[Task.FREE], tmp_path / "report", cache, samples=100)


def test_a_free_model_of_an_old_artifact_is_asked_for_nothing(
    datasets: dict[Task, Dataset], cache: Path, tmp_path: Path
) -> None:
    dataset = datasets[Task.LABEL]
    family = GAN(latent=4)
    about = dataclasses.replace(an_about(dataset.shape), classes=dataset.classes)
    save(tmp_path / "old", family, family.networks(dataset.shape), dataset.shape, about, dataset.folder)
    report = evaluate(tmp_path / "old", dataset, tmp_path / "report", cache, samples=100)
    assert report.protocol["asked"] == "nothing"
    assert "class_accuracy" not in report.metrics
