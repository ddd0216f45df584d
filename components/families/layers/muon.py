"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal by Newton–Schulz steps.

`torch.optim.Muon` takes matrices one by one. This one stacks all of one shape, and takes fused matrices apart,
so that queries, keys and values of texts are each made orthogonal on their own (those of pictures stay whole).
Measured on one thread against `torch`'s on the fused matrices: 20 ms a step against 22 for the GPT of 0.8 million
parameters, 656 against 533 for 10.6 million, where the smaller parts need more multiplications.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from components.families.layers.attention import Attention, CrossAttention, SwiGLU

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that a Newton–Schulz step applies to the singular values; five steps bring them near 1."""
STEPS = 5


class Muon(Optimizer):
    """Nesterov momentum whose matrices are made orthogonal; decoupled weight decay.

    The update is scaled by √max(1, rows/columns), as in Jordan's and `torch`'s "original". A group's `parts` are
    the rows of the matrices of which its fused ones consist, or () for whole ones.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "parts": ()})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        # by shape and rate: a matrix, the update that it gets, whether it is lying on its side
        stacks: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
            for weight, update in zip(weights, self._momentum(group, weights), strict=True):
                sizes = group["parts"] or (len(weight),)
                # the kernels of convolutions may lie with their channels last, where a flat view would be a copy
                for part, change in zip(
                    weight.split_with_sizes(sizes),
                    update.flatten(1).split_with_sizes(sizes),
                    strict=True,
                ):
                    wide = change if len(change) <= change.shape[1] else change.mT
                    rate = group["lr"] * max(1.0, len(change) / change.shape[1]) ** 0.5
                    stacks[wide.shape[0], wide.shape[1]].append((part, wide, rate))
        for pieces in stacks.values():
            made = orthogonal(torch.stack([wide for _, wide, _ in pieces]))
            for (part, _, rate), change in zip(pieces, made.to(pieces[0][0].dtype), strict=True):
                upright = change if len(change) == len(part) else change.mT
                part.add_(upright.reshape(part.shape), alpha=-rate)

    def _momentum(self, group: dict[str, Any], weights: list[Tensor]) -> tuple[Tensor, ...]:
        """The gradients averaged over the steps, looking ahead as Nesterov's."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1.0 - group["momentum"])
        return torch._foreach_lerp(gradients, buffers, group["momentum"])


def orthogonal(stack: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly, of `stack` [B, m, n] with m ≤ n; bfloat16."""
    a, b, c = COEFFICIENTS
    stack = stack.bfloat16()
    stack = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = stack @ stack.mT
        stack = torch.baddbmm(stack, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), stack, beta=a)
    return stack


def optimizers_of(
    network: nn.Module, kind: str, lr: float, muon_lr: float, weight_decay: float
) -> list[Optimizer]:
    """AdamW for everything, or Muon for matrices and AdamW for norms and what is called an embedding.

    Weight decay acts on matrices only. A parameter called `scale` is no matrix, whatever its shape.
    """
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    matrices = {name for name, weight in named.items() if weight.dim() == 2 and not name.endswith("scale")}
    inner = {name for name in matrices if "embedding" not in name} if kind == "muon" else set()
    groups = [
        {"params": [named[name] for name in named if name in matrices - inner], "weight_decay": weight_decay},
        {"params": [named[name] for name in named if name not in matrices], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # low-rank adapters may leave matrices only
    rest = [AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)] if groups else []
    if not inner:
        return list[Optimizer](rest)
    parts = _parts(network)
    by_parts: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for name in named:
        if name in inner:
            by_parts[parts.get(name, ())].append(named[name])
    pieces = [{"params": weights, "parts": sizes} for sizes, weights in by_parts.items()]
    return [Muon(pieces, lr=muon_lr, weight_decay=weight_decay), *rest]


def _parts(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The rows of the parts of each fused matrix, by the parameter's name."""
    found: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            found[f"{name}.qkv.weight"] = module.parts
        if isinstance(module, CrossAttention):
            found[f"{name}.key_value.weight"] = module.parts
        if isinstance(module, SwiGLU):
            found[f"{name}.gate_up.weight"] = (module.hidden, module.hidden)
    return found
