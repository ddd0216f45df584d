"""The U-Net of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233), small: for pictures of some tens of pixels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle, silu

from components.families.layers.mixing import Context, Convolution, Mixing, group_norm


class Block(nn.Module):
    """Two convolutions whose second norm is scaled and shifted by the condition, added to the input; attention."""

    def __init__(self, inputs: int, outputs: int, signal: int, context: int, attention: bool) -> None:
        super().__init__()
        self.first, self.second = group_norm(inputs), group_norm(outputs, affine=False)
        self.enter = Convolution(inputs, outputs, 3)
        self.leave = Convolution(outputs, outputs, 3, zero=True)
        self.modulation = nn.Linear(signal, 2 * outputs)
        self.skip = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.norm = group_norm(outputs) if attention else None
        self.mixing = Mixing(outputs, context) if attention else None

    def forward(self, hidden: Tensor, signal: Tensor, context: Context | None) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H, W]."""
        scale, shift = self.modulation(signal)[:, :, None, None].chunk(2, 1)
        inner = self.second(self.enter(silu(self.first(hidden))))
        inner = self.leave(silu(torch.addcmul(shift, inner, 1 + scale)))
        summed: Tensor = self.skip(hidden) + inner
        if self.norm is None or self.mixing is None:
            return summed
        # channels-last, a picture is its places' tokens as it lies
        tokens = self.norm(summed).flatten(2).transpose(1, 2)
        mixed: Tensor = self.mixing(tokens, context)
        return summed + mixed.transpose(1, 2).view_as(summed)


class UNet(nn.Module):
    """`depth` blocks at each of `levels` sizes down, one in the middle, as many up, which see those going down.

    Patches of `patch`² pixels become the channels of the largest size. There is attention in the middle and on the way
    up at the smallest size, where it costs little.
    """

    def __init__(
        self,
        inputs: int,
        data: tuple[int, ...],
        signal: int,
        context: int,
        *,
        width: int,
        depth: int,
        levels: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        widths = [width * min(2**level, 4) for level in range(levels)]
        self.enter = Convolution(inputs * patch**2, width, 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (above, own, below) in enumerate(triples([width, *widths, widths[-1]])):
            low = level == levels - 1
            down = [above, *[own] * (depth - 1)]
            self.down.append(
                nn.ModuleList(Block(size, own, signal, context, attention=False) for size in down)
            )
            up = [below + own, *[2 * own] * (depth - 1)]
            self.up.append(nn.ModuleList(Block(size, own, signal, context, low) for size in up))
        self.middle = Block(widths[-1], widths[-1], signal, context, attention=True)
        self.norm = group_norm(width)
        self.leave = Convolution(width, data[0] * patch**2, 3, zero=True)

    def forward(self, pictures: Tensor, signal: Tensor, context: Context | None) -> Tensor:
        """[N, inputs, H, W], the condition [N, signal] and a caption's words → [N, C, H, W]."""
        patches = pixel_unshuffle(pictures, self.patch).contiguous(memory_format=torch.channels_last)
        hidden, kept = self.enter(patches), list[Tensor]()
        for level, down in enumerate(self.down):
            hidden = avg_pool2d(hidden, 2) if level else hidden
            for block in stack(down):
                hidden = block(hidden, signal, context)
                kept.append(hidden)
        hidden = self.middle(hidden, signal, context)
        for level, up in reversed(list(enumerate(self.up))):
            for block in stack(up):
                hidden = block(torch.cat((hidden, kept.pop()), 1), signal, context)
            hidden = interpolate(hidden, scale_factor=2.0) if level else hidden
        return pixel_shuffle(self.leave(silu(self.norm(hidden))), self.patch)


def triples(sizes: list[int]) -> list[tuple[int, int, int]]:
    """Each size between its neighbours, but for the two at the ends."""
    return list(zip(sizes, sizes[1:], sizes[2:], strict=False))


def stack(blocks: nn.Module) -> list[Block]:
    """The blocks of a `ModuleList` in their order."""
    return cast(list[Block], list(blocks.children()))
