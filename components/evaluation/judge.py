"""The features on which rows are compared: a small classifier's, or principal components of the pixels.

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
from components.evaluation.view import View
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
PICTURES = View()


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

    `accuracy` is the judge's on the test split, None for principal components. `view` makes of rows the pictures
    [N, C, H, W] that the network takes.
    """

    name: str
    dimension: int
    accuracy: float | None
    digest: str
    network: Extractor
    view: View = PICTURES

    def of(self, data: Tensor) -> Tensor:
        """Rows [N, …] in [−1, 1] → features [N, D] in float64."""
        with torch.inference_mode():
            return self.network.raw(self.view.of(data)).double() * self.network.scale.double()

    def recognised(self, data: Tensor) -> Tensor:
        """Rows [N, …] in [−1, 1] → the class that the judge sees in each, int64 [N]; only a judge can say."""
        assert isinstance(self.network, Classifier), "principal components know no classes"
        with torch.inference_mode():
            found: Tensor = self.network(self.view.of(data)).argmax(1)
        return found


def features_for(dataset: Dataset, cache: Path, progress: Progress, view: View = PICTURES) -> Features:
    """The features of what `view` makes of the rows of `dataset`: read from `cache`, or fitted and written there.

    One process fits them.
    """
    name = "judge" if len(dataset.classes) > 1 else "pca"
    kind = f"{name}-{view.name}" if view.name else name
    path = cache / f"{kind}-{VERSION}-{dataset.revision}.safetensors"
    found = kept(path, lambda: _fit(name, dataset, progress, view))
    dimension = DIMENSION if name == "judge" else found.weights["components"].shape[1]
    network: Extractor
    shape = view.shape(dataset.shape.data)
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        network = Classifier(shape, len(dataset.classes)) if name == "judge" else Projection(shape, dimension)
    network.load_state_dict(found.weights, assign=True)
    network.eval().requires_grad_(False)
    return Features(name, dimension, found.about.get("accuracy"), found.digest, network, view)


def _fit(name: str, dataset: Dataset, progress: Progress, view: View) -> tuple[Extractor, About]:
    """Fit the features and say what they are."""
    about: dict[str, Any] = {"version": VERSION, "name": name, "revision": dataset.revision}
    if view.name:
        about["features_of"] = view.name
    network: Extractor
    if name == "judge":
        network, about["accuracy"] = _train(dataset, progress, view)
    else:
        progress(f"taking the principal components of the {view.name or 'pixel'}s")
        network = _project(dataset, view)
    network.scale = _scale(network, dataset, view)
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


def _train(dataset: Dataset, progress: Progress, view: View) -> tuple[Classifier, float]:
    """A classifier trained on the train split, and its accuracy on the test split."""
    steps = EPOCHS * dataset.rows("train") // BATCH
    steps = min(MOST_STEPS, max(FEWEST_STEPS, steps))
    stream = Batches(dataset, "train", BATCH, SEED).from_position(Position())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Classifier(view.shape(dataset.shape.data), len(dataset.classes))
    optimizer = AdamW(network.parameters(), lr=LR, weight_decay=1e-2, fused=True)
    schedule = OneCycleLR(optimizer, LR, total_steps=steps)
    for step, (batch, _) in enumerate(islice(stream, steps)):
        if step % (steps // 20) == 0:
            progress(f"training the judge … {round(100 * step / steps)}%")
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(network(view.of(batch.data)), labels(batch)))
        optimizer.step()
        schedule.step()
    return network, _accuracy(network.eval(), dataset, view)


def labels(batch: Batch) -> Tensor:
    """The labels [N] of a batch that has them."""
    assert batch.label is not None, "a dataset with classes has labels"
    return batch.label


def _accuracy(network: Classifier, dataset: Dataset, view: View) -> float:
    right = seen = 0
    with torch.inference_mode():
        for batch in rows(dataset, "test", FITTED_ROWS, SEED):
            right += int((network(view.of(batch.data)).argmax(1) == labels(batch)).sum())
            seen += len(batch)
    return right / seen


def _project(dataset: Dataset, view: View) -> Projection:
    """The first principal components of train rows, by randomized subspace iteration (Halko et al. 2011)."""
    network = Projection(view.shape(dataset.shape.data), 0)
    fitted = rows(dataset, "train", FITTED_ROWS, SEED)
    table = torch.cat([network.small(view.of(batch.data)) for batch in fitted])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        _, _, components = torch.pca_lowrank(table, q=min(DIMENSION, *table.shape), niter=4)
    network.mean, network.components = table.mean(0), components
    return network


def _scale(network: Extractor, dataset: Dataset, view: View) -> Tensor:
    """One over the root of the features' mean variance, so that distances are alike between datasets."""
    with torch.inference_mode():
        fitted = rows(dataset, "train", FITTED_ROWS, SEED)
        parts = [network.raw(view.of(batch.data)) for batch in fitted]
    return torch.cat(parts).double().var(0).mean().rsqrt().float().clone()
