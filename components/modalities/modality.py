"""What a modality is: all that differs by data and not by model."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel
from torch import Tensor

from components.families.family import Batch, Kind, Requests, Shape

Direction = Literal["lower", "higher"]


class Modality(ABC):
    """Arrow rows to tensors and back, the client's request, the bytes it gets, the picture of samples."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    request: ClassVar[type[BaseModel]]
    media_type: ClassVar[str]
    metrics: ClassVar[Mapping[str, Direction]]

    @abstractmethod
    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """The columns that training needs as compact tensors (uint8 pictures, int64 labels), copied once."""

    @abstractmethod
    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """Rows of `columns` as a family sees them."""

    @abstractmethod
    def requests(self, body: Any, shape: Shape, classes: Sequence[str], seeds: Sequence[int]) -> Requests:
        """One row a seed out of a validated request `body`; raises `UserError` for what the model cannot do."""

    @abstractmethod
    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """The finished rows of `output` as files of `media_type`, as the request asks."""

    @abstractmethod
    def picture(self, output: Tensor) -> bytes:
        """A PNG of all rows of `output` for a person to look at."""


def modality_of(name: str) -> Modality:
    """The modality of the module `name` in this folder."""
    module = importlib.import_module(f"components.modalities.{name}")
    found = getattr(module, name.capitalize())()
    assert isinstance(found, Modality)
    return found
