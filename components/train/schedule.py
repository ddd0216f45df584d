"""The learning rate over a training: warm-up, then constant, a cosine, or a plateau and a linear decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch.optim import Optimizer

from components.project import TrainOptions


def factor(options: TrainOptions, step: int) -> float:
    """What every learning rate is multiplied by at `step`, counted from 0.

    It rises linearly over the first `warmup` steps, from 1/warmup to 1. After them, `cosine` falls along half
    a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) and `wsd` stays at 1 until the last `decay` share of all
    steps, over which it falls linearly (Hu et al. 2024, arXiv:2404.06395); both reach `final_lr` at the last step.
    """
    if step < options.warmup:
        return (step + 1) / options.warmup
    if options.schedule == "cosine":
        begin = options.warmup
    elif options.schedule == "wsd":
        begin = max(options.warmup, options.steps - round(options.decay * options.steps))
    else:
        return 1.0
    # the first step of the fall is below 1 already, the last one is at its end
    done = min(1.0, max(0.0, (step + 1 - begin) / max(1, options.steps - begin)))
    height = 0.5 * (1.0 + math.cos(math.pi * done)) if options.schedule == "cosine" else 1.0 - done
    return options.final_lr + (1.0 - options.final_lr) * height


def remember(optimizers: Iterable[Optimizer]) -> None:
    """Keep each group's own learning rate, which the factors multiply."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]


def apply(optimizers: Iterable[Optimizer], value: float) -> None:
    """Set every group's learning rate to `value` times its own.

    It is computed from the step alone, so a resumed run has it to the bit without a state of its own.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * value
