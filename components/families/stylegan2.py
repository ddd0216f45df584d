"""StyleGAN2: a latent becomes a style, and the style modulates every convolution of the generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot, softplus

from components.families.adversarial import Adversarial, Painter, accuracy
from components.families.family import Batch, Losses, Networks, Requests, Shape, State, Task, bounded, tuned
from components.families.gan import squared_slope
from components.families.layers.augment import Augment
from components.families.layers.convolution import Crop, base, halvings, smallest
from components.families.layers.diversity import spread
from components.families.layers.modulation import GAIN, SLOPE, Convolution, Linear, deviation
from components.families.layers.style import Halving, Mapper, Size
from components.families.sampling import LatentState, device_of, finish, from_latent, noise

PATH_MEMORY = 0.01
"""The weight of a step in the mean length of paths (appendix B)."""


def channels_of(data: tuple[int, ...], width: int, widest: int) -> list[int]:
    """The channels of each size from [C, H, W] to the smallest: `width`, doubled each time, `widest` at most."""
    return [min(width << place, widest) for place in range(halvings(data) + 1)]


class Generator(Painter):
    """A learned constant → sizes, each twice the last → the sum of the pictures that they make (figure 7b)."""

    path: Tensor
    """The running mean length of paths, []."""

    def __init__(
        self, mapper: Mapper, data: tuple[int, ...], channels: list[int], style: int, mixing: float
    ) -> None:
        super().__init__(data)
        self.mapper, self.mixing = mapper, mixing
        widths, (height, width) = channels[::-1], base(data)
        self.constant = nn.Parameter(torch.randn(1, widths[0], height, width))
        self.sizes = nn.ModuleList(
            Size(inputs, outputs, data[0], style) for inputs, outputs in pairwise([0, *widths])
        )
        self.sides = [(height << place, width << place) for place in range(len(widths))]
        self.crop = Crop(data)
        self.register_buffer("path", torch.zeros(()))

    @property
    def places(self) -> int:
        """How many styles a picture takes: the picture of a size shares that of the next convolution."""
        return 2 * len(self.sides)

    @property
    def pixels(self) -> int:
        """How many numbers of noise a picture takes."""
        return sum((2 if place else 1) * height * width for place, (height, width) in enumerate(self.sides))

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, latent] and classes [N] → [N, *data], around [−1, 1], with fresh noise and mixed styles."""
        return self.paint(self.mixed(self.mapper(latent, label), label), self.fresh(len(latent)))

    def fresh(self, rows: int) -> Tensor:
        """Noise that training draws, [rows, pixels]."""
        return torch.randn(rows, self.pixels, device=self.constant.device)

    def mixed(self, style: Tensor, label: Tensor | None) -> Tensor:
        """[N, style] → [N, places, style], where a share `mixing` of rows goes on with another w from some place."""
        rows, device = len(style), style.device
        if not self.mixing:
            return style[:, None].expand(-1, self.places, -1)
        other = self.mapper(torch.randn(rows, self.mapper.latent, device=device), label)
        cut = torch.randint(1, self.places, (rows,), device=device)
        cut = torch.where(torch.rand(rows, device=device) < self.mixing, cut, self.places)
        own = torch.arange(self.places, device=device) < cut[:, None]
        return torch.where(own[:, :, None], style[:, None], other[:, None])

    def paint(self, styles: Tensor, noises: Tensor) -> Tensor:
        """Styles [N, places, style] and noise [N, pixels] → [N, *data]."""
        constant = self.constant.contiguous(memory_format=torch.channels_last)
        maps, picture = constant.expand(len(styles), -1, -1, -1), None
        each, place, begin = styles.unbind(1), 0, 0
        for size, (height, width) in zip(self.sizes, self.sides, strict=True):
            count = 2 if place else 1
            part = noises[:, begin : begin + count * height * width].view(-1, count, 1, height, width)
            maps, picture = size(maps, picture, list(each[place : place + count + 1]), list(part.unbind(1)))
            place, begin = place + count, begin + count * height * width
        cropped: Tensor = self.crop(picture)
        return cropped.float()


class Discriminator(nn.Module):
    """Halvings, the deviation among rows, and two linear layers; a projection on the class where there is one."""

    def __init__(self, data: tuple[int, ...], channels: list[int], classes: int, augment: Augment) -> None:
        super().__init__()
        last = channels[-1]
        self.augment = augment
        self.read = Convolution(data[0], channels[0], 1, GAIN)
        self.halvings = nn.Sequential(*(Halving(inputs, outputs) for inputs, outputs in pairwise(channels)))
        self.last = Convolution(last + 1, last, 3, GAIN)
        self.features = Linear(last * smallest(data), last, GAIN)
        self.head = Linear(last, 1)
        self.embedding = Linear(classes, last) if classes else None

    def forward(self, data: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, *data] and classes [N] → logits [N], fp32; large for what looks like a real row (of its class)."""
        data = data.contiguous(memory_format=torch.channels_last)
        maps = self.halvings(leaky_relu(self.read(data), SLOPE))
        maps = leaky_relu(self.last(deviation(maps)), SLOPE).flatten(1)
        with torch.autocast(data.device.type, enabled=False):
            features = leaky_relu(self.features(maps.float()), SLOPE)
            logits: Tensor = self.head(features).squeeze(1)
            if self.embedding is None:
                return logits
            assert label is not None, "a discriminator that judges by class needs one a row"
            wanted: Tensor = self.embedding(one_hot(label, self.embedding.weight.shape[1]).float())
            return torch.add(logits, (wanted * features).sum(1) / math.sqrt(features.shape[1]))


@dataclass(kw_only=True)
class StyleState(LatentState):
    """The state of rows whose styles are drawn to the mean: `truncation` [R] is ψ."""

    truncation: Tensor


@dataclass(frozen=True, kw_only=True)
class StyleGAN2(Adversarial):
    """Karras et al. 2020 (arXiv:1912.04958), with adaptive augmentation (Karras et al. 2020b, arXiv:2006.06676).

    The generator adds up the pictures of its sizes, the discriminator is residual (section 4.1). The loss is the
    non-saturating one; every `r1_every` steps the discriminator takes the penalty on its slope at real rows
    (Mescheder et al. 2018, as the discriminator sees them: augmented) and every `path_every` steps the generator
    that on the length of paths (section 3.2), each times its interval, which keeps its weight (lazy
    regularization, appendix B). As a penalty is added to the loss of its step, Adam needs no other settings;
    `train.clip` would cut it off, so it has to be 0.

    With classes, the style depends on the class, and the discriminator projects on it. `augment` is the r at which
    the augmentation's probability stands still, over `ramp` pictures it goes from 0 to 1; 1 never changes a picture.
    `truncation` (ψ) draws the style of a request that does not say it to the mean of its class, at 0 all the way.
    """

    lr: float = tuned(2.5e-3, low=1e-4, high=1e-2, log=True, least=1e-9, most=10.0)
    latent: int = tuned(64, low=16, high=512, log=True, least=1, most=65_536)
    beta1: float = bounded(0.0, least=0.0, most=0.999)
    beta2: float = bounded(0.99, least=0.0, most=0.99999)
    style: int = bounded(128, least=1, most=65_536)
    mapping: int = bounded(8, least=1, most=64)
    mapping_rate: float = bounded(0.01, least=1e-4, most=10.0)
    width: int = tuned(32, low=8, high=64, log=True, least=1, most=4096)
    widest: int = bounded(512, least=1, most=65_536)
    mixing: float = bounded(0.9, least=0.0, most=1.0)
    r1: float = tuned(0.5, low=0.01, high=20.0, log=True, least=0.0, most=1e4)
    r1_every: int = bounded(16, least=1, most=10_000)
    path: float = bounded(2.0, least=0.0, most=1e4)
    path_every: int = bounded(8, least=1, most=10_000)
    augment: float = bounded(0.6, least=0.0, most=1.0)
    ramp: float = bounded(500_000.0, least=1.0, most=1e12)
    truncation: float = bounded(1.0, least=0.0, most=2.0)

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.LABEL})
    double_backward: ClassVar[bool] = True
    unclipped: ClassVar[bool] = True
    # eight pictures are no mixtures of styles, and paths between them are not smooth
    small: ClassVar[Mapping[str, Any]] = {
        "latent": 16,
        "style": 64,
        "mapping": 1,
        "mixing": 0.0,
        "path": 0.05,
    }

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The discriminator is updated first, as in every family here."""
        channels = channels_of(shape.data, self.width, self.widest)
        augment = Augment(self.augment, self.ramp)
        mapper = Mapper(self.latent, self.style, self.mapping, shape.classes, self.mapping_rate)
        return {
            "discriminator": Discriminator(shape.data, channels, shape.classes, augment),
            "generator": Generator(mapper, shape.data, channels, self.style, self.mixing),
        }

    def asked(self, rows: Batch | LatentState) -> tuple[Tensor, ...]:
        """The class [N], if the rows have one; networks that were made without classes pass over it."""
        return () if rows.label is None else (rows.label,)

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The generator's or the discriminator's loss, with the penalty that is due at `step`."""
        if name == "generator":
            return self._generator_loss(networks, batch, step)
        return self._discriminator_loss(networks, batch, step)

    def _generator_loss(self, networks: Networks, batch: Batch, step: int) -> Losses:
        generator, discriminator = _generator(networks), _discriminator(networks)
        latent, label = self._draw(batch), batch.label
        style = generator.mapper(latent, label)
        generator.mapper.follow(style, label)
        fake = generator.paint(generator.mixed(style, label), generator.fresh(len(batch)))
        logits = discriminator(discriminator.augment(fake), label)
        loss = softplus(-logits).mean() + self._uniformity(networks, batch, fake, latent)
        if not self.path or step % self.path_every:
            return loss, {}
        penalty = self._path_penalty(generator, batch)
        logged = {"path": penalty.detach(), "path_length": generator.path.clone()}
        return loss + self.path * self.path_every * penalty, logged

    def _path_penalty(self, generator: Generator, batch: Batch) -> Tensor:
        """(‖Jᵀy‖ − a)² on half of the rows, a scalar (equation 4); y is noise in the picture, a the mean length."""
        rows = max(1, len(batch) // 2)
        label = None if batch.label is None else batch.label[:rows]
        latent = self._draw(batch)[:rows]
        styles = generator.mixed(generator.mapper(latent, label), label)
        picture = generator.paint(styles, generator.fresh(rows))
        direction = torch.randn_like(picture) / math.sqrt(math.prod(picture.shape[2:]))
        (slope,) = torch.autograd.grad((picture * direction).sum(), styles, create_graph=True)
        lengths = slope.float().square().sum(2).mean(1).sqrt()
        mean = torch.lerp(generator.path, lengths.detach().mean(), PATH_MEMORY)
        generator.path.copy_(mean)
        return (lengths - mean).square().mean()

    def _discriminator_loss(self, networks: Networks, batch: Batch, step: int) -> Losses:
        generator, discriminator = _generator(networks), _discriminator(networks)
        fake, label = generator(self._draw(batch), batch.label).detach(), batch.label
        due = bool(self.r1) and step % self.r1_every == 0
        real = discriminator.augment(batch.data).detach().requires_grad_(due)
        real_logits, fake_logits = (
            discriminator(data, label) for data in (real, discriminator.augment(fake))
        )
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        discriminator.augment.adjust(real_logits)
        shown = label if discriminator.embedding is not None else None
        logged = {
            "accuracy": accuracy(real_logits, fake_logits),
            "spread": spread(fake, batch.data, shown),
            "augment": discriminator.augment.probability.clone(),
        }
        if due:
            penalty = squared_slope(real_logits, real).mean()
            loss = loss + 0.5 * self.r1 * self.r1_every * penalty
            logged["r1"] = penalty.detach()
        return loss, logged

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' latents; ψ is `truncation` where a request does not say."""
        begun = from_latent(requests, _generator(networks).data, self.latent, device_of(networks))
        asked = requests.options.get("truncation")
        if asked is None:
            asked = torch.full((len(requests),), self.truncation)
        return StyleState(**vars(begun), truncation=asked.to(begun.latent))

    def advance(self, networks: Networks, state: State) -> State:
        """The picture of the row's latent, with noise by its seed."""
        assert isinstance(state, StyleState)
        generator = _generator(networks)
        style = generator.mapper(state.latent, state.label)
        style = generator.mapper.truncated(style, state.label, state.truncation)
        # step 0 of a seed is its latent
        noises = noise(state.seed, torch.ones_like(state.seed), (generator.pixels,)).to(style.device)
        picture = generator.paint(style[:, None].expand(-1, generator.places, -1), noises)
        return finish(state, picture.clamp(-1.0, 1.0))


def _generator(networks: Networks) -> Generator:
    network = networks["generator"]
    assert isinstance(network, Generator)
    return network


def _discriminator(networks: Networks) -> Discriminator:
    network = networks["discriminator"]
    assert isinstance(network, Discriminator)
    return network
