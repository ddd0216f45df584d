"""What a variational family trains: an encoder, a decoder, and the posterior and the likelihood between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.families.layers.flow import Flow
from components.families.layers.likelihood import bernoulli, discretized_logistic

HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Explained:
    """Rows explained by one draw of z each: `latent` [N, L], and `slopes` [N, *data], which it is decoded to.

    `divergence` [N, L] is each latent's share of KL(q(z|x) ‖ N(0, 1)) in nats, exactly or, with a flow, by this draw;
    `log_ratio` [N] is log p(z) − log q(z|x) of this draw.
    """

    latent: Tensor
    slopes: Tensor
    divergence: Tensor
    log_ratio: Tensor


class Autoencoder(nn.Module):
    """An encoder to independent normals, perhaps a flow behind them, a decoder, and the pixels' likelihood.

    All logistic pixels share one scale, `log_scale`; black and white ones have none.
    """

    def __init__(
        self,
        data: tuple[int, ...],
        encoder: nn.Module,
        decoder: nn.Module,
        logistic: bool,
        flow: Flow | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.encoder, self.decoder, self.flow = encoder, decoder, flow
        self.log_scale = nn.Parameter(torch.tensor(-2.0)) if logistic else None

    def features(self, data: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, *data] → all that the posterior knows of it: means, log variances, the flow's context, [N, 2L + F]."""
        features: Tensor = self.encoder(data.flatten(1))
        return features.float()

    def explain(self, features: Tensor, label: Tensor | None = None, spread: float = 1.0) -> Explained:
        """Rows by a draw of `spread` deviations from q(z|x); 0 takes its means, led through the flow."""
        context = self.flow.hidden if self.flow else 0
        normal, context_of = features.tensor_split((features.shape[1] - context,), dim=1)
        mean, log_variance = normal.chunk(2, dim=1)
        log_variance = log_variance.clamp(-12.0, 12.0)
        unit = spread * torch.randn_like(mean)
        latent = mean + unit * (0.5 * log_variance).exp()
        surprise = 0.5 * (unit.square() + log_variance) + HALF_LOG_TAU
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        if self.flow:
            latent, surprise = self.flow(latent, surprise, context_of)
        ratio = surprise - 0.5 * latent.square() - HALF_LOG_TAU
        return Explained(
            latent=latent,
            slopes=self.slopes(latent, label),
            divergence=-ratio if self.flow else divergence,
            log_ratio=ratio.sum(1),
        )

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
