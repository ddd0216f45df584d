"""The variational autoencoder, of perceptrons or of convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

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
from components.families.layers.flow import Flow
from components.families.layers.grid import grid_decoder, grid_encoder
from components.families.layers.likelihood import bernoulli, discretized_logistic
from components.families.layers.perceptron import perceptron
from components.families.sampling import LatentState, device_of, finish, from_latent

HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
PIECE = 4096
"""Rows times draws whose likelihoods are computed at once."""


class Autoencoder(nn.Module):
    """The encoder, the decoder, the flow where there is one, and of logistic pixels the one scale they all share."""

    def __init__(self, shape: Shape, family: VAE) -> None:
        super().__init__()
        self.data, self.latent = shape.data, family.latent
        hidden = family.width // 2
        self.encoder = family.encoder(self.seen(shape), 2 * family.latent + (hidden if family.flow else 0))
        self.decoder = family.decoder(self.told(shape, family.latent), shape.data)
        self.flow = Flow(family.latent, hidden, family.flow) if family.flow else None
        self.log_scale = nn.Parameter(torch.tensor(-2.0)) if family.likelihood == "logistic" else None

    def seen(self, shape: Shape) -> tuple[int, ...]:
        """The shape of what the encoder sees."""
        return shape.data

    def told(self, shape: Shape, latent: int) -> int:
        """How many numbers the decoder is given."""
        return latent

    def encode(self, data: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """[N, *data] → mean and log variance of q(z|x), [N, latent] each, and the flow's context [N, hidden]."""
        outputs = self.encoder(data.flatten(1)).float()
        mean, log_variance, context = outputs.tensor_split((self.latent, 2 * self.latent), dim=1)
        return mean, log_variance.clamp(-12.0, 12.0), context

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, latent] → the pixels' means [N, *data] in [−1, 1]."""
        return self.slopes(latent, label).tanh()

    def slopes(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, latent] → [N, *data] whose hyperbolic tangents are the means."""
        flat: Tensor = self.decoder(latent)
        return flat.view(-1, *self.data)

    def surprise(self, data: Tensor, slopes: Tensor) -> Tensor:
        """−log p(x|z) in nats a row, [N]."""
        if self.log_scale is None:
            return bernoulli(data, slopes).flatten(1).sum(1)
        return discretized_logistic(data, slopes.tanh(), self.log_scale).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class VAE(Family):
    """Kingma & Welling 2014 (arXiv:1312.6114).

    `likelihood` “logistic”: p(x|z) is the discretized logistic of Salimans et al. 2017 (arXiv:1701.05517, section
    2.1) over the 256 levels of a pixel, so the ELBO bounds the probability of the 8-bit picture itself; one learned
    scale for all pixels balances the two terms by itself (Rybkin et al. 2021, arXiv:2006.13202). “bernoulli”: a
    pixel's grey is the chance that it is white; loss and nats draw black and white anew each time (the dynamically
    binarized data of Salakhutdinov & Murray 2008), and a sample shows the chances.

    `beta` weighs the divergence (Higgins et al. 2017), 1 is the ELBO; over the first `beta_warmup` steps it rises
    from 0 (Sønderby et al. 2016, arXiv:1602.02282, section 2.3). Each latent may have `free_bits` nats for nothing,
    as a mean over the batch (Kingma et al. 2016, arXiv:1606.04934, appendix C.8). `flow` steps of that paper's inverse
    autoregressive flow make the posterior wider than independent normals.
    """

    lr: float = tuned(1e-3, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    latent: int = tuned(20, low=4, high=128, log=True, least=1, most=65_536)
    width: int = tuned(512, low=64, high=1024, log=True, least=1, most=65_536)
    depth: int = tuned(1, low=0, high=4, least=0, most=64)
    beta: float = bounded(1.0, least=0.0, most=100.0)
    beta_warmup: int = bounded(0, least=0)
    free_bits: float = bounded(0.0, least=0.0, most=100.0)
    flow: int = bounded(0, least=0, most=64)
    network: str = "perceptron"
    likelihood: str = "logistic"

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE})
    private: ClassVar[frozenset[str]] = frozenset({"autoencoder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("network", self.network, ("perceptron", "convolution"))
        one_of("likelihood", self.likelihood, ("logistic", "bernoulli"))
        if self.free_bits:  # they compare the rows of a batch
            object.__setattr__(self, "private", frozenset())

    def encoder(self, data: tuple[int, ...], outputs: int) -> nn.Module:
        """A flat picture of shape `data` → [N, outputs]."""
        if self.network == "convolution":
            return grid_encoder(data, outputs, self.width, self.depth)
        return perceptron(math.prod(data), outputs, self.width, self.depth)

    def decoder(self, inputs: int, data: tuple[int, ...]) -> nn.Module:
        """[N, inputs] → a flat picture of shape `data`."""
        if self.network == "convolution":
            return grid_decoder(inputs, data, self.width, self.depth)
        return perceptron(inputs, math.prod(data), self.width, self.depth)

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network, because encoder and decoder share one loss."""
        return {"autoencoder": Autoencoder(shape, self)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The negative ELBO (with `beta` and `free_bits`) in nats a value, whose size does not depend on the shape."""
        distortion, divergence = self._terms(networks, self._observed(batch.data), batch.label)
        beta = self.beta * min(1.0, (step + 1) / (self.beta_warmup + 1))
        paid = divergence.mean(0).clamp(min=self.free_bits) if self.free_bits else divergence.mean(0)
        loss = (distortion.mean() + beta * paid.sum()) / math.prod(batch.data.shape[1:])
        return loss, {
            "distortion": distortion.mean().detach(),
            "divergence": divergence.sum(1).mean().detach(),
        }

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """The negative ELBO of each row by one draw from q(z|x), [N]: an upper bound on −log p."""
        distortion, divergence = self._terms(networks, self._observed(batch.data), batch.label)
        return distortion + divergence.sum(1)

    def importance_nats(self, networks: Networks, batch: Batch, draws: int) -> Tensor:
        """−log of the mean of p(x, z)/q(z|x) over `draws` z of each row, [N] (Burda et al. 2016, arXiv:1509.00519)."""
        data, network = self._observed(batch.data), autoencoder(networks)
        posterior = network.encode(data, batch.label)
        parts = []
        for first in range(0, draws, share := max(1, PIECE // len(batch))):
            count = min(share, draws - first)
            parts.append(self._weights(network, data, batch.label, posterior, count))
        return math.log(draws) - torch.cat(parts).logsumexp(0)

    def _weights(
        self,
        network: Autoencoder,
        data: Tensor,
        label: Tensor | None,
        posterior: tuple[Tensor, Tensor, Tensor],
        draws: int,
    ) -> Tensor:
        """log p(x, z) − log q(z|x) of `draws` z of each row, [draws, N]."""
        mean, log_variance, context = (part.repeat(draws, 1) for part in posterior)
        latent, surprise = drawn(network, mean, log_variance, context)
        labels = None if label is None else label.repeat(draws)
        slopes = network.slopes(latent, labels)
        distortion = network.surprise(data.repeat(draws, *[1] * (data.dim() - 1)), slopes)
        prior = 0.5 * latent.square() + HALF_LOG_TAU
        return ((surprise - prior).sum(1) - distortion).view(draws, -1)

    def _observed(self, data: Tensor) -> Tensor:
        """What is to be explained: the data, or black and white by the chances that they are."""
        if self.likelihood == "logistic":
            return data
        return torch.where(torch.rand_like(data) < 0.5 * (data + 1.0), 1.0, -1.0)

    def _terms(self, networks: Networks, data: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """−log p(x|z), [N], and each latent's share of the divergence of q(z|x) from N(0, 1), [N, L], in nats.

        With a flow the second is an estimate by the one draw.
        """
        network = autoencoder(networks)
        mean, log_variance, context = network.encode(data, label)
        latent, surprise = drawn(network, mean, log_variance, context)
        if network.flow is None:
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        else:
            divergence = 0.5 * latent.square() + HALF_LOG_TAU - surprise
        return network.surprise(data, network.slopes(latent, label)), divergence

    def encode(self, networks: Networks, data: Tensor) -> Tensor:
        """The means of q(z|x), [N, latent], led through the flow where there is one."""
        return centre(autoencoder(networks), data, None)

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' latents."""
        return from_latent(requests, autoencoder(networks).data, self.latent, device_of(networks))

    def advance(self, networks: Networks, state: State) -> State:
        """The pixels' means for z by the row's seed."""
        assert isinstance(state, LatentState)
        return finish(state, autoencoder(networks).decode(state.latent, state.label))


def drawn(network: Autoencoder, mean: Tensor, log_variance: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """z of q(z|x) and each latent's share of −log q(z|x), [N, L] each."""
    unit = torch.randn_like(mean)
    latent = mean + unit * (0.5 * log_variance).exp()
    surprise = 0.5 * (unit.square() + log_variance) + HALF_LOG_TAU
    return (latent, surprise) if network.flow is None else network.flow(latent, surprise, context)


def centre(network: Autoencoder, data: Tensor, label: Tensor | None) -> Tensor:
    """The means of q(z|x), [N, L], led through the flow where there is one."""
    mean, _, context = network.encode(data, label)
    return mean if network.flow is None else network.flow(mean, torch.zeros_like(mean), context)[0]


def autoencoder(networks: Networks) -> Autoencoder:
    """The network of a variational family."""
    network = networks["autoencoder"]
    assert isinstance(network, Autoencoder)
    return network


def one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError if `value` is not one of the `known`."""
    if value not in known:
        raise ValueError(f"{field} = {value!r} is not one of {', '.join(known)}")
