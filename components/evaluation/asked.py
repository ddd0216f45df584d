"""The held-out rows that samples are asked for by, and compared with, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from components.data.dataset import Dataset, Split
from components.families.family import Batch, tensors

PART = 64
"""Rows that are read at once."""


@dataclass(kw_only=True)
class Asked(Batch):
    """Rows as they are held out, each with its `place` [N] among them.

    Of two domains, `source_label` [N] is the source's class by the target's numbers, −1 for none.
    """

    place: Tensor
    source_label: Tensor | None = None


class Rows:
    """`count` different rows of a split (at most all) in an order that `seed` draws, seen the same way each time."""

    def __init__(self, dataset: Dataset, split: Split, count: int, seed: int) -> None:
        self.modality = dataset.tensors
        order = torch.randperm(dataset.rows(split), generator=torch.Generator().manual_seed(seed))[:count]
        self.count = len(order)
        self.columns = self.modality.columns(dataset.table(split).take(pa.array(order.numpy())))

    def __len__(self) -> int:
        return self.count

    def at(self, places: Tensor) -> Asked:
        """The rows at `places` [n], which count on from the first row behind the last."""
        own = places % self.count
        columns = {name: column[own] for name, column in self.columns.items()}
        batch = self.modality.batch(columns)
        return Asked(**tensors(batch), place=own, source_label=columns.get("source_label"))

    def parts(self, count: int | None = None) -> Iterator[tuple[Asked, Tensor]]:
        """The rows in turn, over and over up to `count` (default: each once), with their places 0, 1, … [n]."""
        for places in torch.split(torch.arange(len(self) if count is None else count), PART):
            yield self.at(places), places
