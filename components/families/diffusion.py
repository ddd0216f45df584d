"""Diffusion: a network that takes noise away, called for a few falling levels of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
from components.families.layers.condition import Condition, check_guidance
from components.families.layers.dit import DiT
from components.families.layers.edm import (
    SOLVERS,
    Levels,
    levels,
    loss_weight,
    over,
    scalings,
    training_levels,
)
from components.families.layers.muon import optimizers_of
from components.families.layers.nonleaking import TOLD, changed
from components.families.layers.unet import UNet
from components.families.sampling import blank, device_of, noise, option

SEEN = 1000
"""The batches whose mean is taken from the pictures: of the first so many evenly, later of about the last so many."""
LONGEST = 1000
"""The most steps that a row can have."""


@dataclass(frozen=True)
class Given:
    """What a shape asks of each row: `label` [N], `prompt` [N,P], in which `NOTHING` is nothing; `source` [N,…]."""

    label: Tensor | None
    prompt: Tensor | None
    source: Tensor | None

    def without(self, rows: Tensor) -> Given:
        """The same, but for `rows` (bool [N]) no class and no caption; a source stays."""
        label = None if self.label is None else self.label.masked_fill(rows, NOTHING)
        prompt = None if self.prompt is None else self.prompt.masked_fill(rows[:, None], NOTHING)
        return dataclasses.replace(self, label=label, prompt=prompt)


@dataclass(kw_only=True)
class DiffusionState(State):
    """Rows that lose their noise: `noisy` [R,C,H,W] at the level of each row's step, of which there are `steps` [R].

    `output` is the last estimate of the finished picture. `guidance` is float [R]; `label`, `prompt` and `source` are
    what the shape asks for.
    """

    noisy: Tensor
    steps: Tensor
    guidance: Tensor
    label: Tensor | None = None
    prompt: Tensor | None = None
    source: Tensor | None = None


class Denoiser(nn.Module):
    """D(x; σ) = c_skip x + c_out F(c_in x; ln(σ)/4) (equation 7), F a U-Net or a DiT that sees the conditions.

    Pictures are taken from their mean, `centre` [C,H,W], because the scalings are those of centred data. So the noise
    of the highest level may stand around it, and need not drown it.
    """

    def __init__(self, family: Diffusion, shape: Shape) -> None:
        super().__init__()
        self.shape, self.deviation = shape, family.deviation
        signal = 4 * family.width if family.network == "unet" else family.width
        inputs = shape.data[0] + (shape.source[0] if shape.source else 0)
        self.condition = Condition(signal, shape.classes, shape.prompt, TOLD if family.augment else 0)
        sizes = (inputs, shape.data, signal, signal if shape.prompt else 0)
        self.network = family.backbone(*sizes)
        self.register_buffer("centre", torch.zeros(shape.data))
        self.register_buffer("seen", torch.zeros(()))
        self.centre: Tensor
        self.seen: Tensor
        """How many batches `centre` is the mean of; kept with it, so that a later training goes on from there."""

    def forward(self, noisy: Tensor, sigma: Tensor, given: Given, change: Tensor | None = None) -> Tensor:
        """Pictures [N,C,H,W] with noise of level `sigma` [N] → the expected clean ones; `change` [N,9] was done."""
        skip, out, scale = (over(rows, noisy) for rows in scalings(sigma, self.deviation))
        level = (sigma.log() / 4).float()
        signal, context = self.condition(level, given.label, given.prompt, change)
        centred = noisy - self.centre
        inputs = scale * centred
        if given.source is not None:
            inputs = torch.cat((inputs, given.source), 1)
        estimate: Tensor = self.centre + skip * centred + out * self.network(inputs, signal, context)
        return estimate

    @torch.no_grad()
    def follow(self, data: Tensor) -> None:
        """Take a batch [N,C,H,W] into the mean picture."""
        self.centre.lerp_(data.mean(0), 1 / (1 + self.seen))
        self.seen.add_(1).clamp_(max=SEEN - 1)

    def given(self, rows: Batch | Requests | DiffusionState) -> Given:
        """What `rows` carry of what the shape asks for."""
        return Given(
            rows.label if self.shape.classes else None,
            rows.prompt if self.shape.prompt else None,
            rows.source if self.shape.source else None,
        )


@dataclass(frozen=True, kw_only=True)
class Diffusion(Family):
    """EDM (Karras et al. 2022, arXiv:2206.00364, table 1) with a small U-Net (Dhariwal & Nichol 2021) or DiT
    (Peebles & Xie 2023).

    Noise levels in training are log-normal (`level_mean`, `level_spread`); `deviation` is σ_d, the data's. Sampling
    goes from `sigma_max` to `sigma_min` and to 0 in `steps` steps, by DPM-Solver++(2M) ("multistep", one
    evaluation a step) or Heun ("heun", two). Classes and captions are dropped with the chance `drop`, and sampling
    goes beyond the unconditional estimate by `guidance` (Ho & Salimans 2022, arXiv:2207.12598): 0 is
    unconditional, 1 conditional, which needs no second evaluation. With `guide` it goes beyond the estimate of a
    network of that width and one block a size, which learns beside it for `guide_steps` steps, sees the same condition
    and errs where it does, but more (Karras et al. 2024, arXiv:2406.02507): so samples become better, and hardly less
    different. A source is joined to the input (Saharia et al. 2022, arXiv:2111.05826). Requests may name `steps` and
    `guidance`. With the chance `augment` each change of appendix F.2 is made to a picture of training, and told:
    for few pictures and long training, where the paper takes 0.12 to 0.15.

    `optimizer` is "muon" (Jordan 2024, on matrices and convolutions at `muon_lr`; AdamW at `lr` on the rest) or
    "adamw".
    """

    lr: float = tuned(1e-3, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    muon_lr: float = tuned(2e-2, low=1e-3, high=1e-1, log=True, least=1e-9, most=10.0)
    optimizer: str = "muon"
    network: str = "unet"
    width: int = bounded(32, least=16, most=4096)
    depth: int = tuned(2, low=1, high=6, least=1, most=256)
    levels: int = bounded(2, least=1, most=6)
    patch: int = bounded(2, least=1, most=64)
    deviation: float = bounded(0.5, least=1e-3, most=10.0)
    level_mean: float = tuned(-0.5, low=-2.0, high=0.5, least=-10.0, most=10.0)
    level_spread: float = tuned(1.4, low=0.8, high=2.0, least=1e-3, most=10.0)
    drop: float = bounded(0.1, least=0.0, most=0.9)
    augment: float = bounded(0.0, least=0.0, most=0.8)
    guide: int = bounded(0, least=0, most=4096)
    guide_steps: int = bounded(300, least=1)
    sampler: str = "multistep"
    steps: int = bounded(10, least=1, most=LONGEST)
    guidance: float = bounded(1.0, least=0.0, most=100.0)
    sigma_min: float = bounded(0.02, least=1e-4, most=1.0)
    sigma_max: float = bounded(20.0, least=1.0, most=1e4)
    rho: float = bounded(7.0, least=1.0, most=100.0)

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.LABEL, Task.PROMPT, Task.SOURCE})
    small: ClassVar[Mapping[str, Any]] = {"width": 16, "depth": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"network": ("unet", "dit"), "optimizer": ("muon", "adamw"), "sampler": tuple(SOLVERS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name, width in {"width": self.width, "guide": self.guide}.items():
            if width % 16:
                raise ValueError(f"{name} = {width} is not a multiple of 16; take {width // 16 * 16 + 16}")

        if not self.guide:
            check_guidance(self.guidance, self.drop)

    def guided(self, shape: Shape) -> bool:
        """Whether there is a guide, or an estimate without the condition."""
        return bool(self.guide or (self.drop and (shape.classes or shape.prompt)))

    @property
    def shardable(self) -> bool:
        """Muon needs whole matrices."""
        return self.optimizer == "adamw"

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network; ValueError for pictures whose sides the patches and halvings do not divide."""
        side = self.patch * (2 ** (self.levels - 1) if self.network == "unet" else 1)
        if any(size % side for size in shape.data[1:]):
            raise ValueError(
                f"pictures of {shape.data[1]}×{shape.data[2]} pixels cannot be cut into {side}×{side}; "
                "lower patch or levels"
            )
        smaller = dataclasses.replace(self, width=self.guide, depth=1) if self.guide else None
        guide = {"guide": Denoiser(smaller, shape)} if smaller else {}
        return {"denoiser": Denoiser(self, shape), **guide}

    def due(self, name: str, step: int) -> bool:
        """A guide that learnt as long would err no more than what it guides."""
        return name != "guide" or step < self.guide_steps

    def backbone(self, inputs: int, data: tuple[int, ...], signal: int, context: int) -> UNet | DiT:
        """The network F: `inputs` channels in, `data` out, told a condition of `signal` and words of `context`."""
        sizes = (inputs, data, signal, context)
        if self.network == "dit":
            return DiT(*sizes, width=self.width, depth=self.depth, patch=self.patch)
        return UNet(*sizes, width=self.width, depth=self.depth, levels=self.levels, patch=self.patch)

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """Muon and AdamW, or AdamW alone; no weight decay."""
        return optimizers_of(network, self.optimizer, self.lr, self.muon_lr, 0.0)

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """λ(σ) ‖D(y + n; σ) − y‖² a value (equation 8), about 1 in the beginning."""
        denoiser, rows = _denoiser(networks, name), len(batch)
        denoiser.follow(batch.data)
        data, given, change = batch.data, denoiser.given(batch), None
        if self.augment:
            data, given, change = _changed(data, given, self.augment)
        sigma = training_levels(rows, self.level_mean, self.level_spread, data.device)
        noisy = data + over(sigma, data) * torch.randn_like(data)
        dropped = torch.rand(rows, device=data.device) < self.drop
        estimate = denoiser(noisy, sigma, given.without(dropped), change)
        error = (estimate - data).square().flatten(1).mean(1)
        return (loss_weight(sigma, self.deviation) * error).mean(), {}

    def start(self, networks: Networks, requests: Requests) -> State:
        """Noise of the highest level around the mean picture, by the rows' seeds."""
        denoiser, device = _denoiser(networks), device_of(networks)
        drawn = noise(requests.seed, torch.zeros_like(requests.seed), denoiser.shape.data)
        steps = option(requests, "steps", self.steps, torch.int64).clamp(1, LONGEST)
        return DiffusionState(
            **blank(requests, denoiser.shape.data, device),
            noisy=denoiser.centre + drawn.to(device) * self.sigma_max,
            steps=steps.to(device),
            guidance=option(requests, "guidance", self.guidance, torch.float32).to(device),
            **vars(denoiser.given(_filled(requests, denoiser.shape))),
        )

    def advance(self, networks: Networks, state: State) -> State:
        """One step of the solver, each row at the levels of its own number of steps."""
        assert isinstance(state, DiffusionState)
        at = levels(state.step, state.steps, self.sigma_min, self.sigma_max, self.rho)
        denoise = partial(self._denoise, networks, state)
        estimate, moved = SOLVERS[self.sampler](denoise, state.noisy, state.output, at)
        return _moved(state, estimate, moved, at)

    def _denoise(self, networks: Networks, state: DiffusionState, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate with guidance, within the range of data.

        What guides is a call of its own, made only where a row asks for it: one doubled batch would have
        another width, and so other bits, than a state without guidance.
        """
        denoiser = _denoiser(networks)
        given = denoiser.given(state)
        estimate: Tensor = denoiser(noisy, sigma, given)
        if self.guided(denoiser.shape) and bool((~state.done & (state.guidance != 1)).any()):
            if self.guide:
                plain = _denoiser(networks, "guide")(noisy, sigma, given)
            else:
                plain = denoiser(noisy, sigma, given.without(torch.ones_like(state.done)))
            estimate = torch.lerp(plain, estimate, over(state.guidance, noisy))
        return estimate.clamp(-1.0, 1.0)


def _moved(state: DiffusionState, estimate: Tensor, noisy: Tensor, at: Levels) -> State:
    """The state after one step, which leaves done rows alone."""
    running = ~state.done
    return dataclasses.replace(
        state,
        output=torch.where(over(running, noisy), estimate, state.output),
        noisy=torch.where(over(running, noisy), noisy, state.noisy),
        length=torch.where(running, noisy.shape[1], state.length),
        done=state.done | (at.after == 0),
        step=state.step + running,
    )


def _changed(data: Tensor, given: Given, likely: float) -> tuple[Tensor, Given, Tensor]:
    """Changed pictures and what was done to them; a source [N,S,H,W] is changed as its picture is."""
    if given.source is None:
        moved, change = changed(data, likely)
        return moved, given, change
    both, change = changed(torch.cat((data, given.source), 1), likely)
    return both[:, : data.shape[1]], dataclasses.replace(given, source=both[:, data.shape[1] :]), change


def _filled(requests: Requests, shape: Shape) -> Requests:
    """The same requests; where they have no class or caption, `NOTHING` says so."""
    like, count = requests.seed, len(requests)
    label, prompt = requests.label, requests.prompt
    if label is None:
        label = torch.full_like(like, NOTHING)
    if prompt is None and shape.prompt:
        prompt = torch.full_like(like[:, None].expand(count, shape.prompt[0]), NOTHING)
    return dataclasses.replace(requests, label=label, prompt=prompt)


def _denoiser(networks: Networks, name: str = "denoiser") -> Denoiser:
    network = networks[name]
    assert isinstance(network, Denoiser)
    return network
