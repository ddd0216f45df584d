"""The vector-quantized variational autoencoder, and the transformer that is the prior of its codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

from components.families.family import (
    NOTHING,
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
from components.families.layers.attention import check_heads
from components.families.layers.choose import inverse
from components.families.layers.condition import check_guidance
from components.families.layers.likelihood import discretized_logistic
from components.families.layers.muon import optimizers_of
from components.families.layers.prior import Prior
from components.families.layers.quantize import Quantizer
from components.families.layers.strided import shrinker, stretcher
from components.families.sampling import blank, device_of, option, uniform

OPTIMIZERS = ("muon", "adamw")


class Codec(nn.Module):
    """The encoder, the codebook, the decoder and the one scale that all values' logistic distributions share.

    Every side is halved `halvings` times; where it cannot be, it is padded first and cut afterwards.
    """

    def __init__(self, shape: Shape, family: VQVAE) -> None:
        super().__init__()
        # a waveform [S] is one channel
        self.data, self.sides = shape.data, shape.data[1:] or shape.data
        channels, factor = (shape.data[0] if shape.data[1:] else 1), 2**family.halvings
        self.grid = tuple(-(-side // factor) for side in self.sides)
        self.whole = tuple(side * factor for side in self.grid)
        self.channels, self.places = channels, math.prod(self.grid)
        dims = len(self.sides)
        self.encoder = shrinker(dims, channels, family.size, family.width, family.halvings, family.depth)
        self.quantizer = Quantizer(family.codebook, family.size, family.decay)
        self.decoder = stretcher(dims, family.size, channels, family.width, family.halvings, family.depth)
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def vectors(self, data: Tensor) -> Tensor:
        """[N, *data] → what is quantized, [N, S, D], in the order in which the prior reads the places."""
        rows = data.view(len(data), self.channels, *self.sides)
        amounts = [(0, whole - side) for side, whole in zip(self.sides, self.whole, strict=True)]
        padded = nn.functional.pad(
            rows,
            [amount for pair in reversed(amounts) for amount in pair],
            value=-1.0 if len(self.sides) > 1 else 0.0,
        )
        vectors: Tensor = self.encoder(padded).flatten(2).transpose(1, 2)
        return vectors

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, S, D] → the centres of the values' distributions, [N, *data]; they may lie outside of [−1, 1].

        A hyperbolic tangent would end in the corner where everything is black and nothing has a gradient.
        """
        grid: Tensor = self.decoder(codes.transpose(1, 2).reshape(len(codes), -1, *self.grid))
        for axis, side in enumerate(self.sides, start=2):
            grid = grid.narrow(axis, 0, side)
        return grid.float().reshape(-1, *self.data)

    def codes(self, data: Tensor) -> Tensor:
        """[N, *data] → the numbers of its codes, int64 [N, S]."""
        return self.quantizer.nearest(self.vectors(data))


@dataclass(kw_only=True)
class CodeState(State):
    """Rows whose codes are being drawn: `codes` int64 [R, S], `token` [R] the one to enter, `memory` the prior's.

    `guidance` is float [R]; `plain` is the prior's memory of the same codes without a class, where it may be asked.
    """

    codes: Tensor
    token: Tensor
    memory: Tensor
    guidance: Tensor
    plain: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class VQVAE(Family):
    """van den Oord et al. 2017 (arXiv:1711.00937): discrete codes, and an autoregressive prior of them.

    The loss is equation 3 in nats, with the discretized logistic of `vae` as p(x|z); the codebook is learned by
    moving averages (its appendix A.1; see `Quantizer`). `commitment` is β of the paper, in nats a number of the
    vectors. The prior is a small transformer instead of a PixelCNN, and learns beside the autoencoder on the codes
    of the moment, in one of `prior_every` steps: it costs more than the autoencoder and is sooner done. Its `optimizer`
    is "muon" (Jordan 2024, on matrices at `muon_lr`; AdamW at `prior_lr` on the rest) or "adamw". Because q(z|x) is
    one code with certainty, −log p(x|z) − log p(z) bounds −log p(x), and no number of draws makes it tighter. Audio is
    [S] in one dimension.

    Classes are dropped with the chance `drop`, and the logits of a code go beyond those without a class by `guidance`
    (Ho & Salimans 2022, arXiv:2207.12598, of tokens as in Gafni et al. 2022, arXiv:2203.13131, section 3.5): 1 needs no
    second evaluation. Requests may name `guidance`.
    """

    lr: float = tuned(1e-3, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    prior_lr: float = tuned(2e-3, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    muon_lr: float = tuned(2e-2, low=1e-3, high=1e-1, log=True, least=1e-9, most=10.0)
    optimizer: str = "muon"
    prior_every: int = bounded(1, least=1)
    codebook: int = tuned(64, low=16, high=1024, log=True, least=2, most=65_536)
    size: int = bounded(16, least=1, most=4096)
    width: int = tuned(64, low=16, high=256, log=True, least=1, most=4096)
    depth: int = bounded(2, least=0, most=64)
    halvings: int = bounded(2, least=0, most=10)
    commitment: float = bounded(0.25, least=0.0, most=1e4)
    decay: float = bounded(0.99, least=0.0, most=0.9999)
    layers: int = tuned(3, low=1, high=8, least=1, most=256)
    heads: int = bounded(4, least=1, most=256)
    prior_width: int = bounded(128, least=2, most=65_536)
    dropout: float = bounded(0.0, least=0.0, most=0.95)
    drop: float = bounded(0.1, least=0.0, most=0.9)
    guidance: float = bounded(1.0, least=0.0, most=100.0)

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE, Kind.WAVEFORM})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.LABEL})
    small: ClassVar[Mapping[str, Any]] = {
        "codebook": 16,
        "width": 32,
        "depth": 1,
        "layers": 1,
        "prior_width": 32,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.prior_width, self.heads, self.heads)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer = {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        check_guidance(self.guidance, self.drop)

    def guided(self, shape: Shape) -> bool:
        """Whether there is a prior without a class to go beyond."""
        return bool(self.drop and shape.classes)

    @property
    def shardable(self) -> bool:
        """Muon needs whole matrices."""
        return self.optimizer == "adamw"

    def due(self, name: str, step: int) -> bool:
        """The prior rests between its steps."""
        return name != "prior" or step % self.prior_every == 0

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The autoencoder first, so that the prior learns the newest codes; ValueError for a side that is too short."""
        if 2**self.halvings > (least := min(shape.data[1:] or shape.data)):
            raise ValueError(
                f"a side of {least} cannot be halved {self.halvings} times; lower halvings to {least.bit_length() - 1}"
            )
        codec = Codec(shape, self)
        sizes = (self.prior_width, self.heads, self.layers, self.dropout)
        return {"autoencoder": codec, "prior": Prior(codec.places, self.codebook, shape.classes, *sizes)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """AdamW at `lr` for the autoencoder; the prior's are its own."""
        if name == "prior":
            return optimizers_of(network, self.optimizer, self.prior_lr, self.muon_lr, 0.0)
        return [AdamW(network.parameters(), lr=self.lr, weight_decay=0.0, fused=True)]

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The autoencoder's in nats a value, the prior's in nats a code."""
        if name == "prior":
            with torch.no_grad():
                codes = codec_of(networks).codes(batch.data)
            surprise = _prior_nats(networks, codes, self._dropped(batch.label)).mean()
            return surprise / codes.shape[1], {"code_nats": surprise.detach()}
        codec = codec_of(networks)
        codes, _, commitment = codec.quantizer(codec.vectors(batch.data))
        distortion = _distortion(codec, batch.data, codes).mean()
        loss = distortion / math.prod(batch.data.shape[1:]) + self.commitment * commitment
        perplexity, used = codec.quantizer.use()
        return loss, {"distortion": distortion.detach(), "perplexity": perplexity, "used": used}

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """−log p(x|z) − log p(z) of the codes z of each row, [N]: an upper bound on −log p(x)."""
        codec = codec_of(networks)
        codes = codec.codes(batch.data)
        distortion = _distortion(codec, batch.data, codec.quantizer.codebook[codes])
        return distortion + _prior_nats(networks, codes, batch.label)

    def _dropped(self, label: Tensor | None) -> Tensor | None:
        """The classes [N], of which by chance some are `NOTHING`."""
        if label is None or not self.drop:
            return label
        return label.masked_fill(torch.rand(len(label), device=label.device) < self.drop, NOTHING)

    def codes(self, networks: Networks, data: Tensor) -> Tensor:
        """[N, *data] → the numbers of its codes, int64 [N, S] in [0, codebook)."""
        return codec_of(networks).codes(data)

    def decode_codes(self, networks: Networks, codes: Tensor) -> Tensor:
        """Numbers of codes [N, S] → [N, *data] in [−1, 1]."""
        codec = codec_of(networks)
        return codec.decode(codec.quantizer.codebook[codes]).clamp(-1.0, 1.0)

    def code_use(self, networks: Networks) -> dict[str, float]:
        """How much of the codebook the training data use: its perplexity, and the share of codes in use."""
        perplexity, used = codec_of(networks).quantizer.use()
        return {"perplexity": float(perplexity), "used": float(used)}

    def start(self, networks: Networks, requests: Requests) -> CodeState:
        """Rows without any code."""
        prior, device = prior_of(networks), device_of(networks)
        fields = blank(requests, codec_of(networks).data, device)
        rows, shares = len(requests), self.drop and prior.classes
        return CodeState(
            **fields,
            codes=torch.zeros(rows, prior.places, dtype=torch.int64, device=device),
            token=prior.begin(requests.label, rows),
            memory=prior.memory(rows),
            guidance=option(requests, "guidance", self.guidance, torch.float32).to(device),
            plain=prior.memory(rows) if shares else None,
        )

    def advance(self, networks: Networks, state: State) -> State:
        """The next code of every open row; those that have all are decoded."""
        assert isinstance(state, CodeState)
        prior = prior_of(networks)
        ready, place = ~state.done, state.step.clamp(max=prior.places - 1)
        logits = self._logits(prior, state, place)
        drawn = inverse(logits.double().softmax(1), uniform(state.seed, state.step).to(logits.device))
        kept = torch.where(ready, drawn, state.codes.gather(1, place[:, None]).squeeze(1))
        state.codes.scatter_(1, place[:, None], kept[:, None])
        state.token = torch.where(ready, drawn, state.token)
        state.step += ready
        over = ready & (state.step >= prior.places)
        if bool(over.any()):
            self._finish(networks, state, over)
        return state

    def _logits(self, prior: Prior, state: CodeState, place: Tensor) -> Tensor:
        """The logits [R, K] of the codes at `place` [R], with guidance where a row asks for it."""
        logits = prior.step(state.token, place, state.memory)
        if state.plain is None or not bool((~state.done & (state.guidance != 1)).any()):
            return logits
        nothing = prior.begin(torch.full_like(place, NOTHING), len(place))
        plain = prior.step(torch.where(place == 0, nothing, state.token), place, state.plain)
        return torch.lerp(plain, logits, state.guidance[:, None])

    def _finish(self, networks: Networks, state: CodeState, over: Tensor) -> None:
        """Decode the rows that are `over` (bool [R])."""
        output = self.decode_codes(networks, state.codes)
        state.output = torch.where(over.view(-1, *[1] * (output.dim() - 1)), output, state.output)
        state.length = torch.where(over, output.shape[1], state.length)
        state.done |= over


def codec_of(networks: Networks) -> Codec:
    """The autoencoder of a `VQVAE`."""
    network = networks["autoencoder"]
    assert isinstance(network, Codec)
    return network


def prior_of(networks: Networks) -> Prior:
    """The prior of a `VQVAE`."""
    network = networks["prior"]
    assert isinstance(network, Prior)
    return network


def _distortion(codec: Codec, data: Tensor, codes: Tensor) -> Tensor:
    """−log p(x|z) of codes [N, S, D] in nats, [N]."""
    return discretized_logistic(data, codec.decode(codes), codec.log_scale).flatten(1).sum(1)


def _prior_nats(networks: Networks, codes: Tensor, label: Tensor | None) -> Tensor:
    """−log p(z) of the numbers of codes [N, S] in nats, [N]."""
    logits = prior_of(networks)(codes, label)
    return cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1)
