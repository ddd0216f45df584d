"""What a variational family trains: an encoder, a decoder, and the posterior between them, flat or a ladder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.families.layers.likelihood import bernoulli, discretized_logistic
from components.families.layers.perceptron import Residual, perceptron


@dataclass(frozen=True)
class Explained:
    """Rows explained by one draw each: `latent`, and `mean` and `log_variance` of its posterior, [N, L].

    `slopes` [N, *data] are what the latents are decoded to; their hyperbolic tangents are the pixels' means.
    """

    latent: Tensor
    mean: Tensor
    log_variance: Tensor
    slopes: Tensor

    @property
    def divergence(self) -> Tensor:
        """Each latent's share of KL(q(z|x) ‖ N(0, 1)) in nats, [N, L]; of a ladder, given the latents before it."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance)

    @property
    def log_ratio(self) -> Tensor:
        """log p(z) − log q(z|x) of this draw in nats, [N]."""
        unit = (self.latent - self.mean) * (-0.5 * self.log_variance).exp()
        return 0.5 * (unit.square() + self.log_variance - self.latent.square()).sum(1)


class Autoencoder(nn.Module):
    """An encoder to mean and log variance of independent normals, a decoder from them, and the pixels' likelihood.

    All logistic pixels share one scale, `log_scale`; black and white ones have none.
    """

    def __init__(
        self,
        data: tuple[int, ...],
        latent: int,
        encoder: nn.Module,
        decoder: nn.Module,
        logistic: bool,
    ) -> None:
        super().__init__()
        self.data, self.latent = data, latent
        self.encoder, self.decoder = encoder, decoder
        self.log_scale = nn.Parameter(torch.tensor(-2.0)) if logistic else None

    def features(self, data: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, *data] → all that the posterior knows of it, [N, F]."""
        features: Tensor = self.encoder(data.flatten(1))
        return features

    def explain(self, features: Tensor, label: Tensor | None = None, spread: float = 1.0) -> Explained:
        """Rows by a draw of `spread` deviations from q(z|x); 0 takes its means."""
        mean, log_variance = normal(features)
        latent = near(mean, log_variance, spread)
        return Explained(latent, mean, log_variance, self.slopes(latent, label))

    def slopes(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, latent] → [N, *data] whose hyperbolic tangents are the pixels' means."""
        flat: Tensor = self.decoder(latent)
        return flat.view(-1, *self.data)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, latent] → the pixels' means [N, *data] in [−1, 1]."""
        return self.slopes(latent, label).tanh()

    def surprise(self, data: Tensor, slopes: Tensor) -> Tensor:
        """−log p(x|z) in nats a row, [N]."""
        if self.log_scale is None:
            return bernoulli(data, slopes).flatten(1).sum(1)
        return discretized_logistic(data, slopes.tanh(), self.log_scale).flatten(1).sum(1)


class Rung(nn.Module):
    """A group of `latent` numbers: its posterior by features and trunk, and how it enters the trunk."""

    def __init__(self, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.posterior = perceptron(2 * width, 2 * latent, width // 2 or 1, 1)
        self.inject = nn.Linear(latent, width)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))

    def forward(self, trunk: Tensor, latent: Tensor) -> Tensor:
        """The trunk [N, width] after the group [N, latent] has entered."""
        after: Tensor = self.blocks(trunk + self.inject(latent))
        return after


class Ladder(nn.Module):
    """Groups of latents from the top down: each posterior sees what the groups above have said (arXiv:1602.02282).

    The prior of every latent is N(0, 1): a learned prior's shift and scale would be part of how it enters the trunk.
    """

    def __init__(self, latent: int, groups: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.begin = nn.Parameter(torch.zeros(width))
        self.rungs = nn.ModuleList(Rung(latent // groups, width, depth) for _ in range(groups))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, latent: Tensor) -> Tensor:
        """[N, latent] → [N, outputs]."""
        trunk = self.begin
        for rung, own in zip(self.rungs, latent.chunk(len(self.rungs), dim=1), strict=True):
            trunk = rung(trunk, own)
        outputs: Tensor = self.head(trunk)
        return outputs

    def climb(self, features: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features [N, width] → latents, means and log variances [N, latent], and outputs [N, outputs]."""
        trunk, found = self.begin.expand(len(features), -1), []
        for rung in self.rungs:
            assert isinstance(rung, Rung)
            mean, log_variance = normal(rung.posterior(torch.cat((features, trunk), dim=1)))
            latent = near(mean, log_variance, spread)
            trunk = rung(trunk, latent)
            found.append((latent, mean, log_variance))
        latent, mean, log_variance = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return latent, mean, log_variance, self.head(trunk)


class LadderAutoencoder(Autoencoder):
    """An `Autoencoder` whose decoder is a `Ladder`."""

    def explain(self, features: Tensor, label: Tensor | None = None, spread: float = 1.0) -> Explained:
        """See `Autoencoder`."""
        assert isinstance(self.decoder, Ladder)
        *posterior, flat = self.decoder.climb(features, spread)
        return Explained(*posterior, flat.view(-1, *self.data))


def normal(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """[N, 2L] → mean and log variance, [N, L]; the second cannot leave what float32 holds."""
    mean, log_variance = outputs.float().chunk(2, dim=1)
    return mean, log_variance.clamp(-12.0, 12.0)


def near(mean: Tensor, log_variance: Tensor, spread: float) -> Tensor:
    """A draw, `spread` standard deviations wide."""
    if not spread:
        return mean
    return mean + spread * torch.randn_like(mean) * (0.5 * log_variance).exp()
