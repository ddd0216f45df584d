"""How rows are looked at: what features are taken of, what people see, what clients get."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from components.evaluation.image import eight_bit


class View:
    """Pictures, which are looked at as they are; what is no picture is turned into one by a view of its own.

    `name` says what features are taken of, nothing for the rows themselves; of pictures for people, each side is
    enlarged to about `target` pixels.
    """

    name: ClassVar[str] = ""
    target: ClassVar[int] = 56

    def of(self, data: Tensor) -> Tensor:
        """Rows [N, …] in [−1, 1] → the pictures [N, C, H, W] that features are taken of."""
        return data

    def shown(self, data: Tensor) -> Tensor:
        """Rows [N, …] → the pictures [N, C, H, W] that people look at."""
        return data

    def rounded(self, data: Tensor) -> Tensor:
        """What a model draws as clients get it."""
        return eight_bit(data)

    def binned(self, data: Tensor) -> Tensor:
        """Real rows with the values of which the likelihood is measured."""
        return data

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [C, H, W] of what features are taken of, for rows of the shape `data`."""
        return tuple(self.of(torch.zeros(1, *data)).shape[1:])
