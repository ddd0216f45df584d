"""EDM (Karras et al. 2022, arXiv:2206.00364): preconditioning, noise levels in training and sampling, two solvers.

A solver turns pictures of one noise level into those of the next, each row at levels of its own. What is computed
for a row alone, from its counters, is in float64: rounded to float32 it is the same number in whatever place of a
tensor the row stands, while float32 roots and logarithms differ between the vectorized middle and the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Noisy pictures [R,C,H,W] and their noise levels [R] → the expected clean pictures [R,C,H,W]."""
Solver: TypeAlias = Callable[[Denoise, Tensor, Tensor, "Levels"], tuple[Tensor, Tensor]]
"""(denoise, noisy, previous estimate, levels) → (estimate at the level now, pictures at the level after)."""


@dataclass(frozen=True)
class Levels:
    """The noise levels of each row, float64 [R]: one step ago, now, and after this step; 0 at the end."""

    before: Tensor
    now: Tensor
    after: Tensor


def scalings(sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in (table 1) for data of standard `deviation`, each of `sigma`'s shape.

    They make the input of the network and what it is to predict of variance one at every level (appendix B.6).
    """
    total = sigma.square() + deviation**2
    return deviation**2 / total, sigma * deviation * total.rsqrt(), total.rsqrt()


def loss_weight(sigma: Tensor, deviation: float) -> Tensor:
    """λ(σ) = (σ² + σ_d²) / (σ σ_d)² (table 1), under which every level begins with a loss of one."""
    return (sigma.square() + deviation**2) / (sigma * deviation).square()


def training_levels(rows: int, mean: float, spread: float, device: torch.device) -> Tensor:
    """Log-normal levels [rows] (table 1): ln σ of `mean` and standard deviation `spread`.

    Each row draws from one of as many equally likely parts, so that a batch holds all levels (Kingma et al. 2021,
    arXiv:2107.00630, appendix I.1), whatever the order of its rows.
    """
    part = torch.randperm(rows, device=device)
    chance = (part + torch.rand(rows, device=device)) / rows
    normal: Tensor = torch.special.ndtri(chance.clamp(1e-6, 1 - 1e-6))
    return (mean + spread * normal).exp()


def sampling_levels(step: Tensor, steps: Tensor, low: float, high: float, rho: float) -> Tensor:
    """The level before `step` of a row with `steps` steps (equation 5), float64 [R]: from `high` over `low` to 0."""
    share = step.clamp(min=0).double() / (steps - 1).clamp(min=1)
    first, last = high ** (1 / rho), low ** (1 / rho)
    return torch.where(step < steps, (first + share * (last - first)) ** rho, 0.0)


def levels(step: Tensor, steps: Tensor, low: float, high: float, rho: float) -> Levels:
    """The three levels of the step number `step` [R], counted from 0."""
    before, now, after = (sampling_levels(step + shift, steps, low, high, rho) for shift in (-1, 0, 1))
    return Levels(before, now, after)


def heun(denoise: Denoise, noisy: Tensor, _: Tensor, at: Levels) -> tuple[Tensor, Tensor]:
    """Heun's step of second order (algorithm 1): two evaluations, of which the last step needs one."""
    estimate = denoise(noisy, at.now)
    slope = (noisy - estimate) / over(at.now, noisy)
    reach = over(at.after - at.now, noisy)
    moved = noisy + reach * slope
    last = at.after == 0
    second = torch.where(last, at.now, at.after)
    corrected = (moved - denoise(moved, second)) / over(second, noisy)
    better = noisy + reach * ((slope + corrected) * 0.5)
    return estimate, torch.where(over(last, noisy), estimate, better)


def multistep(denoise: Denoise, noisy: Tensor, previous: Tensor, at: Levels) -> tuple[Tensor, Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): one evaluation, of second order.

    With λ = −ln σ and α = 1, x' = (σ'/σ) x + (1 − σ'/σ) D, where D is the estimate extrapolated from the `previous`
    one by half the ratio of the two steps in λ; the first and the last step take the estimate itself.
    """
    estimate = denoise(noisy, at.now)
    inner = (at.after > 0) & (at.before > at.now)
    ratio = torch.log(at.now / at.after) / torch.log(at.before / at.now)
    extra = over(torch.where(inner, 0.5 * ratio, 0.0), noisy)
    beyond = torch.where(over(inner, noisy), estimate + extra * (estimate - previous), estimate)
    share = over(at.after / at.now, noisy)
    return estimate, share * noisy + (1 - share) * beyond


SOLVERS: dict[str, Solver] = {"multistep": multistep, "heun": heun}


def over(rows: Tensor, like: Tensor) -> Tensor:
    """`rows` [R] as [R,1,…] beside `like` [R,…], numbers in its type."""
    shaped = rows.view(-1, *[1] * (like.dim() - 1))
    return shaped.to(like.dtype) if rows.is_floating_point() else shaped
