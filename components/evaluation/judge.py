"""The features on which images are compared: a small classifier's, or principal components of the pixels.

Either is fitted on a dataset's train split, once for each revision, and kept in a cache folder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from components.data.dataset import Batches, Dataset, Position, Split, check_same
from components.evaluation.kept import About, kept
from components.families.family import Batch, select

VERSION = 1
"""Raised when anything here changes the features."""
SEED = 20_170_626
DIMENSION = 64
BATCH = 128
EPOCHS, FEWEST_STEPS, MOST_STEPS = 40, 400, 600
LR = 3e-3
PART = 64
FITTED_ROWS = 10_000
"""The most train rows on which the principal components and the features' scale are fitted."""
SMALL_SIDE = 32
"""Pixels a side above which pictures are made smaller before their principal components are taken."""

Progress = Callable[[str], None]


class Extractor(nn.Module, ABC):
    """A network that gives features; `scale` makes their mean variance over the train split one."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def raw(self, data: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → [N, D], before scaling."""


class Classifier(Extractor):
    """A convolutional classifier: halved to a side of four, then 64 features, then a logit a class."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        patch = max(1, min(height, width) // SMALL_SIDE)
        size = 3 if patch == 1 else patch
        layers = convolution(channels, 16, size, patch)
        side, inputs = math.ceil(min(height, width) / patch), 16
        while side > 4:
            outputs = min(2 * inputs, 64)
            layers += convolution(inputs, outputs, 3, 2)
            side, inputs = math.ceil(side / 2), outputs
        layers += convolution(inputs, 64, 3, 1)
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, DIMENSION), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(DIMENSION, classes)

    def raw(self, data: Tensor) -> Tensor:
        """The penultimate activations, [N, 64]."""
        activations: Tensor = self.body(data)
        return activations

    def forward(self, data: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, classes]."""
        logits: Tensor = self.head(self.raw(data))
        return logits


def convolution(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
    """A convolution, group normalization (no row sees another), SiLU."""
    padding = 1 if size == 3 else 0
    return [nn.Conv2d(inputs, outputs, size, stride, padding), nn.GroupNorm(4, outputs), nn.SiLU()]


class Projection(Extractor):
    """Principal components of pictures that are averaged down to at most 32 pixels a side."""

    mean: Tensor
    components: Tensor

    def __init__(self, shape: tuple[int, ...], dimension: int) -> None:
        super().__init__()
        self.side = (min(shape[1], SMALL_SIDE), min(shape[2], SMALL_SIDE))
        values = shape[0] * math.prod(self.side)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(values, dimension))

    def small(self, data: Tensor) -> Tensor:
        """[N, C, H, W] → the values that are projected, [N, P]."""
        return adaptive_avg_pool2d(data, self.side).flatten(1)

    def raw(self, data: Tensor) -> Tensor:
        """The coordinates along the components, [N, D]."""
        return (self.small(data) - self.mean) @ self.components


@dataclass(frozen=True)
class Features:
    """Features that are ready: `name` is judge or pca, `digest` that of the cached file.

    `accuracy` is the judge's on the test split, None for principal components.
    """

    name: str
    dimension: int
    accuracy: float | None
    digest: str
    network: Extractor

    def of(self, data: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → features [N, D] in float64."""
        with torch.inference_mode():
            return self.network.raw(data).double() * self.network.scale.double()

    def recognised(self, data: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → the class that the judge sees in each, int64 [N]; only a judge can say."""
        assert isinstance(self.network, Classifier), "principal components know no classes"
        with torch.inference_mode():
            found: Tensor = self.network(data).argmax(1)
        return found


def features_for(dataset: Dataset, cache: Path, progress: Progress) -> Features:
    """The features for `dataset`: read from `cache`, or fitted and written there; one process fits them."""
    name = "judge" if len(dataset.classes) > 1 else "pca"
    path = cache / f"{name}-{VERSION}-{dataset.revision}.safetensors"
    found = kept(path, lambda: _fit(name, dataset, progress))
    dimension = DIMENSION if name == "judge" else found.weights["components"].shape[1]
    network: Extractor
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        if name == "judge":
            network = Classifier(dataset.shape.data, len(dataset.classes))
        else:
            network = Projection(dataset.shape.data, dimension)
    network.load_state_dict(found.weights, assign=True)
    network.eval().requires_grad_(False)
    return Features(name, dimension, found.about.get("accuracy"), found.digest, network)


def _fit(name: str, dataset: Dataset, progress: Progress) -> tuple[Extractor, About]:
    """Fit the features and say what they are."""
    about: dict[str, Any] = {"version": VERSION, "name": name, "revision": dataset.revision}
    network: Extractor
    if name == "judge":
        network, about["accuracy"] = _train(dataset, progress)
    else:
        progress("taking the principal components of the pixels")
        network = _project(dataset)
    network.scale = _scale(network, dataset)
    check_same(dataset)  # nothing is kept that was fitted on rows of two revisions
    return network, about


def rows(dataset: Dataset, split: Split, count: int, seed: int, plain: bool = False) -> Iterator[Batch]:
    """`count` different rows of a split (at most all) in an order drawn by `seed`, 64 at a time.

    Rows of training are seen as training sees them, or, if `plain`, as held-out rows are.
    """
    count = min(count, dataset.rows(split))
    stream = Batches(dataset, split, PART, seed, plain=plain).from_position(Position())
    for number, (part, _) in enumerate(islice(stream, math.ceil(count / PART))):
        yield select(part, slice(0, count - number * PART))


def _train(dataset: Dataset, progress: Progress) -> tuple[Classifier, float]:
    """A classifier trained on the train split, and its accuracy on the test split."""
    steps = EPOCHS * dataset.rows("train") // BATCH
    steps = min(MOST_STEPS, max(FEWEST_STEPS, steps))
    stream = Batches(dataset, "train", BATCH, SEED).from_position(Position())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Classifier(dataset.shape.data, len(dataset.classes))
    optimizer = AdamW(network.parameters(), lr=LR, weight_decay=1e-2, fused=True)
    schedule = OneCycleLR(optimizer, LR, total_steps=steps)
    for step, (batch, _) in enumerate(islice(stream, steps)):
        if step % (steps // 20) == 0:
            progress(f"training the judge … {round(100 * step / steps)}%")
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(network(batch.data), labels(batch)))
        optimizer.step()
        schedule.step()
    return network, _accuracy(network.eval(), dataset)


def labels(batch: Batch) -> Tensor:
    """The labels [N] of a batch that has them."""
    assert batch.label is not None, "a dataset with classes has labels"
    return batch.label


def _accuracy(network: Classifier, dataset: Dataset) -> float:
    right = seen = 0
    with torch.inference_mode():
        for batch in rows(dataset, "test", FITTED_ROWS, SEED):
            right += int((network(batch.data).argmax(1) == labels(batch)).sum())
            seen += len(batch)
    return right / seen


def _project(dataset: Dataset) -> Projection:
    """The first principal components of train rows, by randomized subspace iteration (Halko et al. 2011)."""
    network = Projection(dataset.shape.data, 0)
    table = torch.cat([network.small(batch.data) for batch in rows(dataset, "train", FITTED_ROWS, SEED)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        _, _, components = torch.pca_lowrank(table, q=min(DIMENSION, *table.shape), niter=4)
    network.mean, network.components = table.mean(0), components
    return network


def _scale(network: Extractor, dataset: Dataset) -> Tensor:
    """One over the root of the features' mean variance, so that distances are alike between datasets."""
    with torch.inference_mode():
        parts = [network.raw(batch.data) for batch in rows(dataset, "train", FITTED_ROWS, SEED)]
    return torch.cat(parts).double().var(0).mean().rsqrt().float().clone()
