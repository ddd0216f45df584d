"""Low-rank adapters: the weights that a run starts from stay as they are, and small additions are trained.

Nothing of this is seen outside training: what is sampled, saved and served is merged, W + B·A, in the family's own
shapes (Hu et al. 2021, arXiv:2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from components.errors import UserError


class LowRank(nn.Module):
    """W ↦ W + B·A with A [rank, inputs] and B [outputs, rank], which starts at zero (section 4.1)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """[outputs, inputs] → the same shape."""
        return weight + self.up @ self.down


def adapted_layers(networks: Mapping[str, nn.Module]) -> list[nn.Linear | nn.Embedding]:
    """What gets adapters: each linear layer and embedding. Raises `UserError` where they cannot be had.

    Embeddings too, because tokens that the start did not know begin alike.
    """
    found = []
    for name, network in networks.items():
        if any(parametrize.is_parametrized(module) for module in network.modules()):
            raise UserError(
                f"The network “{name}” computes its weights from others, as by spectral norm, which adapters would "
                "change; leave train.adapters out."
            )
        layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Embedding)]
        if not layers:
            raise UserError(
                f"The network “{name}” has no linear layer or embedding to adapt; leave train.adapters out."
            )
        found += layers
    return found


def adapt(networks: Mapping[str, nn.Module], rank: int) -> None:
    """Freeze every weight and give each linear layer and embedding an adapter of `rank`; raises `UserError`."""
    layers = adapted_layers(networks)
    for network in networks.values():
        network.requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merged(fresh: dict[str, nn.Module], adapted: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """`fresh` networks of the family filled with the weights of `adapted` ones, W + B·A where there are adapters."""
    for name, network in fresh.items():
        network.load_state_dict(plain(adapted[name]))
    return fresh


def plain(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network as it would be without parametrizations."""
    state = {
        key: value for key, value in network.state_dict().items() if ".parametrizations." not in f".{key}"
    }
    for prefix, module in network.named_modules():
        if parametrize.is_parametrized(module):
            state[f"{prefix}.weight".lstrip(".")] = module.weight.detach()
    return state
