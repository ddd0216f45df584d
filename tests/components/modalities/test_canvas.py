"""What of a person's picture reaches the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.families.family import Shape
from components.modalities.canvas import Easel
from components.modalities.corruption import Corruption


@pytest.mark.parametrize("size", [(64, 80), (20, 28), (28, 28), (10, 12)])
def test_nothing_of_what_is_in_the_hole_reaches_the_model(size: tuple[int, int]) -> None:
    """Whatever is to be painted over, the pixels around it are as if it had never been there."""
    shape = Shape(data=(1, 28, 28), source=(2, 28, 28))
    easel = Easel(shape, Corruption(kind="mask"), windowed=False)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, *size), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(1, *size)
    mask[:, size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] = 1

    def seen(inside: int) -> Tensor:
        return easel._filled(torch.where(mask > 0, inside, picture).to(torch.uint8), mask).sources

    dark, light = seen(0), seen(255)
    assert torch.equal(dark, light)
    assert dark.std() > 0.1
