"""What networks that turn a picture into a picture have in common."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn.functional import pad


class Translator(nn.Module):
    """A network that turns sources [N,Cs,H,W] into pictures [N,C,H,W], of any height and width."""

    outputs: int
    """C, the channels of the pictures."""

    @abstractmethod
    def forward(self, source: Tensor) -> Tensor:
        """[N,Cs,H,W] → [N,C,H,W], in [−1, 1] or little beyond."""


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps height and width, or divides them by `stride`."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2)


def fitted(pictures: Tensor, multiple: int) -> Tensor:
    """`pictures` [N,C,H,W] continued below and to the right until both sides are multiples of `multiple`.

    They are mirrored where they are large enough, else the last pixels are repeated.
    """
    height, width = pictures.shape[2:]
    right, below = -width % multiple, -height % multiple
    if not right and not below:
        return pictures
    mirrors = right < width and below < height
    return pad(pictures, (0, right, 0, below), mode="reflect" if mirrors else "replicate")
