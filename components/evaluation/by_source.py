"""Pictures that are made of another: how near they are to the true one, or whether they keep the other's class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.asked import Asked, Rows
from components.evaluation.condition import Condition, Values
from components.evaluation.image import eight_bit
from components.evaluation.judge import Features, labels
from components.evaluation.measurement import Subject
from components.evaluation.quality import psnr, ssim, window_of
from components.evaluation.sheet import sheet
from components.families.family import Batch, Requests
from components.modalities.sources import shown

ACROSS, DOWN = 4, 4
"""How often source and result stand beside each other in a line, and lines."""


class BySource(Condition):
    """Samples are asked for by the sources of held-out rows, each once."""

    protocol: Mapping[str, Any]

    def __init__(self, test: Rows) -> None:
        self.test = test
        self.protocol = {"asked": "sources of held-out rows"}

    def requests(self, asked: Asked, seed: Tensor) -> Requests:
        """Each with its row's source."""
        return Requests(seed=seed, source=sources(asked))

    def finished(self, pictures: Tensor, asked: Asked) -> Tensor:
        """What is known of a picture with a hole is left as it is."""
        source = sources(asked)
        hole = hole_of(source, pictures.shape[1])
        return pictures if hole is None else torch.where(hole, pictures, eight_bit(source[:, :-1]))

    def trivial(self, asked: Asked) -> Tensor | None:
        """The source itself."""
        return filled(sources(asked), asked.data.shape[1])

    def beside(self, samples: Tensor, *heads: str) -> dict[str, bytes]:
        """A picture with source, sample and, under the third head, the true picture in each row."""
        asked = self.test.at(torch.arange(min(ACROSS * DOWN, len(self.test)) // ACROSS * ACROSS))
        found = [shown(sources(asked), samples.shape[1]), samples[: len(asked)], asked.data]
        together = torch.stack(found[: len(heads)], 1)
        lines = together.view(-1, ACROSS * len(heads), *samples.shape[1:])
        return {"before_after.png": sheet(lines, (), heads * ACROSS)}


class ByPair(BySource):
    """The true picture is known: distance to it in the picture, and in the hole where there is one."""

    leads: ClassVar[bool] = True

    def __init__(self, test: Rows, shape: tuple[int, ...]) -> None:
        super().__init__(test)
        self.protocol = {**self.protocol, "ssim_window": window_of(shape)}

    def obeyed(self, pictures: Tensor, asked: Asked) -> Values:
        """PSNR, SSIM and, of sources with a mask, PSNR in the hole."""
        found = {"psnr": psnr(pictures, asked.data), "ssim": ssim(pictures, asked.data)}
        hole = hole_of(sources(asked), asked.data.shape[1])
        return found if hole is None else {**found, "hole_psnr": psnr(pictures, asked.data, hole)}

    def real(self, asked: Asked) -> Values:
        """A true picture is at no distance from itself."""
        return {}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """Source, sample and truth side by side."""
        return {**super().pictures(subject, samples), **self.beside(samples, "before", "after", "truth")}


class ByDomain(BySource):
    """No true picture is known: the judge of the target should see the source's class in what was made of it."""

    def __init__(self, test: Rows, features: Features) -> None:
        super().__init__(test)
        self.features, self.first = features, _first(test)
        self.protocol = {**self.protocol, "sources": int(self.first.sum())}

    def obeyed(self, pictures: Tensor, asked: Asked) -> Values:
        """Whether the judge sees the source's class, for sources that have one; each source counts once."""
        if asked.source_label is None or self.features.name != "judge":
            return {}
        known = (asked.source_label >= 0) & self.first[asked.place]
        seen = self.features.recognised(pictures[known])
        return {"class_accuracy": seen.eq(asked.source_label[known]).double()}

    def real(self, asked: Asked) -> Values:
        """Whether the judge sees the class of real pictures of the target."""
        if asked.source_label is None or self.features.name != "judge":
            return {}
        return {"class_accuracy": self.features.recognised(asked.data).eq(labels(asked)).double()}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """Source and sample side by side."""
        return {**super().pictures(subject, samples), **self.beside(samples, "before", "after")}


def by_source(dataset: Dataset, test: Rows, features: Features) -> BySource:
    """The condition of a dataset with sources: of two domains, or of pairs."""
    if unpaired(dataset):
        return ByDomain(test, features)
    return ByPair(test, dataset.shape.data)


def _first(test: Rows) -> Tensor:
    """Whether a row is the first with its source, bool [rows]: pictures of a small domain stand beside several."""
    seen: set[bytes] = set()
    found = []
    for asked, _ in test.parts():
        for source in sources(asked):
            key = hashlib.sha256(source.numpy().tobytes()).digest()
            found.append(key not in seen)
            seen.add(key)
    return torch.tensor(found)


def unpaired(dataset: Dataset) -> bool:
    """Whether sources are pictures of another domain."""
    conditions = getattr(dataset.tensors, "conditions", None)
    return (
        conditions is not None
        and conditions.corruption is not None
        and conditions.corruption.kind == "unpaired"
    )


def sources(batch: Batch) -> Tensor:
    """The sources [N, Cs, H, W] of a batch that has them."""
    assert batch.source is not None, "a dataset with sources has them in each row"
    return batch.source


def hole_of(source: Tensor, channels: int) -> Tensor | None:
    """Where something is to be filled in, bool [N, 1, H, W]; None for sources without a mask."""
    return source[:, -1:] > 0 if source.shape[1] == channels + 1 else None


def filled(source: Tensor, channels: int) -> Tensor:
    """The trivial answer, [N, channels, H, W]: the source as it is, a hole filled with the mean of what is known."""
    hole = hole_of(source, channels)
    if hole is None:
        return eight_bit(shown(source, channels))
    known = (~hole).to(source.dtype)
    mean = (source[:, :-1] * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    return eight_bit(torch.where(hole, mean, source[:, :-1]))
