"""Two networks that play against each other: what generative adversarial families of pictures share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam, Optimizer

from components.families.family import (
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    State,
    Task,
    bounded,
    tuned,
)
from components.families.layers.diversity import mode_seeking, spread
from components.families.sampling import LatentState, device_of, finish, from_latent


class Painter(nn.Module):
    """A generator; `data` is the shape of one picture that it makes."""

    def __init__(self, data: tuple[int, ...]) -> None:
        super().__init__()
        self.data = data


@dataclass(frozen=True, kw_only=True)
class Adversarial(Family):
    """A generator of pictures from a normal latent, and a network that judges them (Goodfellow et al. 2014).

    The losses are the discriminator's cross entropy and the non-saturating loss of section 3; variants override
    them. Where a family draws by class, both networks take the class as a second input. `diversity` weighs the
    mode-seeking loss of Mao et al. 2019 (arXiv:1903.05628), 0 leaves it out; 1 is the paper's weight. Every
    discriminator logs its `accuracy` and the samples' `spread`, by which training sees a mode collapse.
    """

    latent: int = tuned(100, low=16, high=256, log=True, least=1, most=65_536)
    beta1: float = bounded(0.5, least=0.0, most=0.999)
    beta2: float = bounded(0.999, least=0.0, most=0.99999)
    diversity: float = bounded(0.0, least=0.0, most=1e4)

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE})
    judge: ClassVar[str] = "discriminator"
    """The name of the network that the generator plays against."""

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """Adam with `beta1` and `beta2`, at `rate`."""
        return [Adam(network.parameters(), lr=self.rate(name), betas=(self.beta1, self.beta2), fused=True)]

    def rate(self, name: str) -> float:
        """The learning rate of one network: `lr` for both."""
        return self.lr

    def asked(self, rows: Batch | LatentState) -> tuple[Tensor, ...]:
        """What both networks are told beside their input: the class [N], in families that draw by it."""
        if Task.LABEL not in self.tasks:
            return ()
        assert rows.label is not None, "a family that draws by class needs one a row"
        return (rows.label,)

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The generator's or the discriminator's loss on fresh latents, with what is watched."""
        latent, asked = self._draw(batch), self.asked(batch)
        fake = networks["generator"](latent, *asked)
        if name == "generator":
            loss = self.generator_loss(networks[self.judge], batch, fake)
            return loss + self._uniformity(networks, batch, fake, latent), {}
        loss, logged = self.discriminator_loss(networks[self.judge], batch, fake.detach())
        return loss, {**logged, "spread": spread(fake, batch.data, *asked)}

    def discriminator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Losses:
        """−log D(x) − log(1 − D(G(z)))."""
        asked = self.asked(batch)
        real_logits, fake_logits = discriminator(batch.data, *asked), discriminator(fake, *asked)
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        return loss, {"accuracy": accuracy(real_logits, fake_logits)}

    def generator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Tensor:
        """−log D(G(z))."""
        return softplus(-discriminator(fake, *self.asked(batch))).mean()

    def _draw(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch), self.latent, device=batch.data.device)

    def _uniformity(self, networks: Networks, batch: Batch, fake: Tensor, latent: Tensor) -> Tensor | float:
        """The weighted mode-seeking loss, against a second draw of the same conditions."""
        if not self.diversity:
            return 0.0
        other = self._draw(batch)
        again = networks["generator"](other, *self.asked(batch))
        return self.diversity * mode_seeking(fake, again, latent, other)

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' latents."""
        generator = networks["generator"]
        assert isinstance(generator, Painter)
        return from_latent(requests, generator.data, self.latent, device_of(networks))

    def advance(self, networks: Networks, state: State) -> State:
        """G(z), with z by the row's seed."""
        assert isinstance(state, LatentState)
        return finish(state, networks["generator"](state.latent, *self.asked(state)))


def accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The share of rows on whose side of 0 the discriminator puts them, a scalar in [0, 1]."""
    return 0.5 * ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean())
