"""The residual generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2, after Johnson et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from components.families.layers.translator import Translator, fitted

HALVINGS = 2


def mirrored(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with mirrored edges; instance norm behind it makes a bias idle."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, padding_mode="reflect", bias=False)


def normed(convolution: nn.Module, channels: int) -> list[nn.Module]:
    """The convolution, instance norm with learned scale and shift, ReLU.

    Group norm of one channel a group is instance norm, in a tenth less time on CPUs.
    """
    return [convolution, nn.GroupNorm(channels, channels), nn.ReLU(inplace=True)]


class Block(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = normed(mirrored(width, width, 3), width)
        second = normed(mirrored(width, width, 3), width)[:-1]
        self.layers = nn.Sequential(*first, *second)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width, H, W] → the same."""
        update: Tensor = self.layers(inputs)
        return inputs + update


class ResNet(Translator):
    """7×7 to `width`, two halvings to 4·`width`, `blocks` residual blocks, two doublings, 7×7, tanh."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.outputs = outputs
        layers = normed(mirrored(inputs, width, 7), width)
        for _ in range(HALVINGS):
            layers += normed(mirrored(width, 2 * width, 3, stride=2), 2 * width)
            width *= 2
        layers += [Block(width) for _ in range(blocks)]
        for _ in range(HALVINGS):
            doubling = nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1, bias=False)
            layers += normed(doubling, width // 2)
            width //= 2
        last = nn.Conv2d(width, outputs, 7, padding=3, padding_mode="reflect")
        self.layers = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, source: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H, W] in [−1, 1]."""
        height, width = source.shape[2:]
        picture: Tensor = self.layers(fitted(source, 2**HALVINGS))[:, :, :height, :width]
        return picture
