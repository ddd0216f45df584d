"""−log p of pixels given a decoder's outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LEVELS = 255
"""Steps between the 256 levels of an 8-bit picture."""


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


def bernoulli(data: Tensor, slopes: Tensor) -> Tensor:
    """−log of the chance of `data`, each −1 or 1, in nats; tanh of `slopes` is its mean, so 2 × slope its logit.

    Of a grey between the two it is the mean over black and white.
    """
    slopes = slopes.float()
    return softplus(2.0 * slopes) - (1.0 + data) * slopes
