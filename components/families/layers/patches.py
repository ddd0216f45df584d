"""The discriminator that judges every patch of a picture on its own (Isola et al. 2017, section 3.2.2)."""

from __future__ import annotations

from torch import Tensor, nn

WIDEST = 8
"""The most channels, as a multiple of the first layer's."""


class PatchDiscriminator(nn.Module):
    """Convolutions of 4×4: up to three that halve the picture, one that does not, one to a logit a patch.

    Three see patches of 70×70; pictures below 32 pixels a side have fewer, so that there are several patches.
    Instance norm is what the paper's batch norm is at its batch size of 1, and CycleGAN's choice (section 4).
    """

    def __init__(self, inputs: int, sides: tuple[int, ...], width: int) -> None:
        super().__init__()
        halvings = max(0, min(3, min(sides).bit_length() - 3))
        widths = [width * min(WIDEST, 2**place) for place in range(halvings + 1)]
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(zip([inputs, *widths], widths, strict=False)):
            stride = 2 if place < halvings else 1
            layers.append(nn.Conv2d(before, after, 4, stride, padding=1))
            layers += [nn.InstanceNorm2d(after)] if place else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, inputs, H, W] → logits [N, 1, h, w]; large for what looks real."""
        logits: Tensor = self.layers(pictures).float()  # on a CPU autocast leaves the loss as it is
        return logits
