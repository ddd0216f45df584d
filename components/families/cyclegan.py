"""Unpaired image-to-image translation: converting style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Adam, Optimizer

from components.families.family import Batch, Losses, Networks, Shape, bounded, tuned
from components.families.layers.convolution import small_normal
from components.families.layers.diversity import spread
from components.families.layers.patches import PatchDiscriminator
from components.families.layers.resnet import HALVINGS, ResNet
from components.families.layers.translator import Translator
from components.families.translation import Translation


class Ways(nn.Module):
    """Two networks that are trained as one: of the way from `source` to `data`, and of the way back."""

    def __init__(self, forth: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.forth, self.back = forth, back


@dataclass(frozen=True, kw_only=True)
class CycleGAN(Translation):
    """Zhu et al. 2017 (arXiv:1703.10593): equation 3 with least squares (section 4), both ways at once.

    The generators' loss is adversarial + `cycle` · (|F(G(x)) − x| + |G(F(y)) − y|) + `identity` · (|G(y) − y| +
    |F(x) − x|); the last (section 5.2) where both domains have as many channels. The history of 50 generated
    pictures is left out: kept in a buffer it would be saved with the model, and averaged over workers.

    Generators that correct the source, as pix2pix's does, stay at the identity on the contract test's pictures: the
    discriminators win before these have moved. So all begin at random, from N(0, 0.02²) (appendix 7.1).
    """

    lr: float = tuned(2e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    cycle: float = tuned(10.0, low=1.0, high=30.0, log=True, least=0.0, most=1e4)
    identity: float = tuned(5.0, low=0.0, high=15.0, least=0.0, most=1e4)
    width: int = tuned(32, low=8, high=64, log=True, least=1, most=4096)
    blocks: int = tuned(6, low=1, high=9, least=1, most=64)
    patch_width: int = bounded(64, least=1, most=4096)
    beta1: float = bounded(0.5, least=0.0, most=0.999)

    unpaired: ClassVar[bool] = True
    small: ClassVar[dict[str, Any]] = {"width": 8, "blocks": 1, "patch_width": 16, "lr": 1e-3}

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """Two discriminators, updated first, and two generators; ValueError for pictures that are too small."""
        assert shape.source is not None, "the dataset has pictures of another domain"
        source, data, sides = shape.source[0], shape.data[0], shape.data[1:]
        if min(sides) <= (least := 2**HALVINGS):  # one pixel has no mirrored edge
            raise ValueError(
                f"pictures of {sides[0]}×{sides[1]} pixels are too small to be halved twice; cyclegan needs more than "
                f"{least} pixels a side, so make size or crop larger"
            )
        judges = [PatchDiscriminator(channels, sides, self.patch_width) for channels in (data, source)]
        makers = [ResNet(*ends, self.width, self.blocks) for ends in ((source, data), (data, source))]
        networks = {"discriminators": Ways(*judges), "generators": Ways(*makers)}
        return {name: network.apply(small_normal) for name, network in networks.items()}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """Adam at `lr` with β₁ = `beta1`, for both."""
        return [Adam(network.parameters(), lr=self.lr, betas=(self.beta1, 0.999), fused=True)]

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """½(D(y) − 1)² + ½D(G(x))² and the same backwards, or the generators' loss."""
        source, data = batch.source, batch.data
        assert source is not None
        judges, makers = ways(networks["discriminators"]), ways(networks["generators"])
        if name == "generators":
            return self._made(makers, judges, source, data)
        new_data, new_source = makers.forth(source).detach(), makers.back(data).detach()
        forth, told_forth = judged(judges.forth, data, new_data)
        back, told_back = judged(judges.back, source, new_source)
        width = 0.5 * (spread(new_data, data) + spread(new_source, source))
        return forth + back, {"accuracy": 0.5 * (told_forth + told_back), "spread": width}

    def _made(self, makers: Ways, judges: Ways, source: Tensor, data: Tensor) -> Losses:
        new_data, new_source = makers.forth(source), makers.back(data)
        adversarial = off(judges.forth(new_data), 1.0) + off(judges.back(new_source), 1.0)
        cycle = l1_loss(makers.back(new_data), source) + l1_loss(makers.forth(new_source), data)
        loss = adversarial + self.cycle * cycle
        logged = {"adversarial": adversarial, "cycle": cycle}
        if self.identity and source.shape == data.shape:
            identity = l1_loss(makers.forth(data), data) + l1_loss(makers.back(source), source)
            loss, logged = loss + self.identity * identity, {**logged, "identity": identity}
        return loss, logged

    def translator(self, networks: Networks) -> Translator:
        """The generator from `source` to `data`."""
        forth = ways(networks["generators"]).forth
        assert isinstance(forth, Translator)
        return forth


def off(logits: Tensor, wanted: float) -> Tensor:
    """The mean square of how far the patches' logits are from `wanted`."""
    return (logits.float() - wanted).square().mean()


def judged(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's loss, and the share of patches that it tells right."""
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    accuracy = 0.5 * ((real_logits > 0.5).float().mean() + (fake_logits < 0.5).float().mean())
    return 0.5 * (off(real_logits, 1.0) + off(fake_logits, 0.0)), accuracy


def ways(network: nn.Module) -> Ways:
    """`network` as the two that it consists of."""
    assert isinstance(network, Ways)
    return network
