"""The variational autoencoder of two multilayer perceptrons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from components.families.family import (
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    Shape,
    State,
    Task,
    bounded,
    tuned,
)
from components.families.sampling import LatentState, device_of, finish, from_latent

LEVELS = 255
"""Steps between the 256 levels of an 8-bit picture."""


class Residual(nn.Module):
    """x + W₂ gelu(W₁ norm(x)), of one width; the second layer starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width] → [N, width]."""
        update: Tensor = self.outer(nn.functional.gelu(self.inner(self.norm(inputs))))
        return inputs + update


def perceptron(inputs: int, outputs: int, width: int, depth: int) -> nn.Sequential:
    """inputs → width, `depth` residual blocks, → outputs."""
    blocks = [Residual(width) for _ in range(depth)]
    return nn.Sequential(nn.Linear(inputs, width), *blocks, nn.LayerNorm(width), nn.Linear(width, outputs))


class Autoencoder(nn.Module):
    """The encoder, the decoder and the one scale that all pixels' logistic distributions share."""

    def __init__(self, data: tuple[int, ...], latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.data, size = data, math.prod(data)
        self.encoder = perceptron(size, 2 * latent, width, depth)
        self.decoder = perceptron(latent, size, width, depth)
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def encode(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """[N, *data] → mean and log variance of q(z|x), [N, latent] each."""
        mean, log_variance = self.encoder(data.flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 12.0)

    def decode(self, latent: Tensor) -> Tensor:
        """[N, latent] → the pixels' means [N, *data] in [−1, 1]."""
        flat: Tensor = self.decoder(latent)
        return flat.tanh().view(-1, *self.data)


@dataclass(frozen=True, kw_only=True)
class VAE(Family):
    """Kingma & Welling 2014 (arXiv:1312.6114), with one learned scale for all pixels.

    p(x|z) is the discretized logistic of Salimans et al. 2017 (arXiv:1701.05517, section 2.1) over the 256
    levels of a pixel, so the ELBO bounds the probability of the 8-bit picture itself; a shared scale balances
    the two terms by itself (Rybkin et al. 2021, arXiv:2006.13202). `beta` weighs the divergence (Higgins et
    al. 2017); 1 is the ELBO.
    """

    lr: float = tuned(1e-3, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    latent: int = tuned(20, low=4, high=128, log=True, least=1, most=65_536)
    width: int = tuned(512, low=64, high=1024, log=True, least=1, most=65_536)
    depth: int = tuned(1, low=0, high=4, least=0, most=64)
    beta: float = bounded(1.0, least=0.0, most=100.0)

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE})
    private: ClassVar[frozenset[str]] = frozenset({"autoencoder"})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network, because encoder and decoder share one loss."""
        return {"autoencoder": Autoencoder(shape.data, self.latent, self.width, self.depth)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The negative ELBO (with `beta`) in nats a value, so that its size does not depend on the shape."""
        distortion, divergence = self._terms(networks, batch)
        values = math.prod(batch.data.shape[1:])
        loss = (distortion + self.beta * divergence).mean() / values
        logged = {"distortion": distortion.mean().detach(), "divergence": divergence.mean().detach()}
        return loss, logged

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """The negative ELBO of each row by one draw from q(z|x), [N]: an upper bound on −log p."""
        distortion, divergence = self._terms(networks, batch)
        return distortion + divergence

    def _terms(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        """−log p(x|z) and KL(q(z|x) ‖ N(0, 1)), [N] each, in nats."""
        network = _autoencoder(networks)
        mean, log_variance = network.encode(batch.data)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        surprise = discretized_logistic(batch.data, network.decode(latent), network.log_scale)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        return surprise.flatten(1).sum(1), divergence.sum(1)

    def encode(self, networks: Networks, data: Tensor) -> Tensor:
        """The means of q(z|x), [N, latent]."""
        return _autoencoder(networks).encode(data)[0]

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' latents."""
        return from_latent(requests, _autoencoder(networks).data, self.latent, device_of(networks))

    def advance(self, networks: Networks, state: State) -> State:
        """The pixels' means for z by the row's seed."""
        assert isinstance(state, LatentState)
        return finish(state, _autoencoder(networks).decode(state.latent))


def _autoencoder(networks: Networks) -> Autoencoder:
    network = networks["autoencoder"]
    assert isinstance(network, Autoencoder)
    return network


def discretized_logistic(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """−log of the logistic's mass on each value's 8-bit bin, in nats, of `data`'s shape.

    `data` and `mean` are in [−1, 1]; the outer bins take the tails. With a = (x + δ − μ)/s and
    b = (x − δ − μ)/s, log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^(b−a)), which never cancels.
    """
    data, mean = data.float(), mean.float()
    half = 1.0 / LEVELS
    scale = log_scale.float().clamp(-7.0, 2.0).exp()
    upper, lower = (data + half - mean) / scale, (data - half - mean) / scale
    inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-2.0 * half / scale))
    low, high = data < -1.0 + half, data > 1.0 - half
    mass = torch.where(low, -softplus(-upper), torch.where(high, -softplus(lower), inside))
    return -mass
