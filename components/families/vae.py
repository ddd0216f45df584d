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
    select,
    tuned,
)
from components.families.layers.autoencoder import Autoencoder, Explained
from components.families.layers.flow import Flow
from components.families.layers.grid import grid_decoder, grid_encoder
from components.families.layers.perceptron import perceptron
from components.families.sampling import LatentState, device_of, finish, from_latent

PIECE = 2**22
"""Values, of rows times draws, whose likelihoods are computed at once."""


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
    as a mean over the batch (Kingma et al. 2016, arXiv:1606.04934, appendix C.8). `flow` steps of that paper's
    inverse autoregressive flow make the latents of the posterior know each other, so the bound is tighter.
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
        return {"autoencoder": Autoencoder(shape.data, *self.parts(shape.data))}

    def parts(
        self, data: tuple[int, ...], planes: int = 0, told: int = 0
    ) -> tuple[nn.Module, nn.Module, bool, Flow | None]:
        """Encoder, decoder, whether pixels are logistic, flow; with `planes` more channels and `told` more inputs."""
        flow = Flow(self.latent, max(1, self.width // 2), self.flow) if self.flow else None
        outputs = 2 * self.latent + (flow.hidden if flow else 0)
        encoder = self.encoder((data[0] + planes, *data[1:]), outputs)
        return encoder, self.decoder(self.latent + told, data), self.likelihood == "logistic", flow

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The negative ELBO (with `beta` and `free_bits`) in nats a value, whose size does not depend on the shape."""
        distortion, explained = self._explained(networks, batch)
        beta = self.beta * min(1.0, (step + 1) / (self.beta_warmup + 1))
        divergence = explained.divergence.mean(0)
        paid = divergence.clamp(min=self.free_bits).sum() if self.free_bits else divergence.sum()
        loss = (distortion.mean() + beta * paid) / math.prod(batch.data.shape[1:])
        logged = {"distortion": distortion.mean().detach(), "divergence": divergence.sum().detach()}
        return loss, logged

    @property
    def binarized(self) -> bool:
        """See `likelihood`."""
        return self.likelihood == "bernoulli"

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """The negative ELBO of each row by one draw from q(z|x), [N]: an upper bound on −log p."""
        distortion, explained = self._explained(networks, batch)
        return distortion + explained.divergence.sum(1)

    def _explained(self, networks: Networks, batch: Batch) -> tuple[Tensor, Explained]:
        """−log p(x|z) in nats, [N], by one draw of z, and that draw."""
        network, data = autoencoder(networks), self._observed(batch.data)
        explained = network.explain(network.features(data, batch.label), batch.label)
        return network.surprise(data, explained.slopes), explained

    def importance_nats(self, networks: Networks, batch: Batch, draws: int) -> Tensor:
        """−log of the mean of p(x, z)/q(z|x) over `draws` z of each row, [N] (Burda et al. 2016, arXiv:1509.00519)."""
        most = max(1, PIECE // math.prod(batch.data.shape[1:]))
        firsts = range(0, len(batch), most)
        pieces = [select(batch, slice(first, first + most)) for first in firsts]
        return torch.cat([self._weighted(networks, piece, draws, most // len(piece)) for piece in pieces])

    def _weighted(self, networks: Networks, batch: Batch, draws: int, share: int) -> Tensor:
        """`importance_nats`, with `share` draws of all rows at once."""
        network, data = autoencoder(networks), self._observed(batch.data)
        features, parts = network.features(data, batch.label), []
        for first in range(0, draws, share):
            count = min(share, draws - first)
            repeated = data.repeat(count, *[1] * (data.dim() - 1))
            label = None if batch.label is None else batch.label.repeat(count)
            explained = network.explain(features.repeat(count, 1), label)
            weight = explained.log_ratio - network.surprise(repeated, explained.slopes)
            parts.append(weight.view(count, -1))
        return math.log(draws) - torch.cat(parts).logsumexp(0)

    def _observed(self, data: Tensor) -> Tensor:
        """What is to be explained: the data, or black and white by the chances that they are."""
        if self.likelihood == "logistic":
            return data
        return torch.where(torch.rand_like(data) < 0.5 * (data + 1.0), 1.0, -1.0)

    def encode(self, networks: Networks, data: Tensor) -> Tensor:
        """The means of q(z|x), [N, latent], led through the flow where there is one."""
        network = autoencoder(networks)
        return network.explain(network.features(data), spread=0.0).latent

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' latents."""
        return from_latent(requests, autoencoder(networks).data, self.latent, device_of(networks))

    def advance(self, networks: Networks, state: State) -> State:
        """The pixels' means for z by the row's seed."""
        assert isinstance(state, LatentState)
        return finish(state, autoencoder(networks).decode(state.latent, state.label))


def autoencoder(networks: Networks) -> Autoencoder:
    """The network of a variational family."""
    network = networks["autoencoder"]
    assert isinstance(network, Autoencoder)
    return network


def one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError if `value` is not one of the `known`."""
    if value not in known:
        raise ValueError(f"{field} = {value!r} is not one of {', '.join(known)}")
