"""Linear layers for generating on a CPU, whose weights lie as oneDNN's kernels read them.

torch lays the weights anew for each product, which costs more than the product itself where rows are few. oneDNN lays
them once, and a row's bits then depend less on how many rows there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.families.layers.onednn import there

LEAST = 2**16
"""Weights of a layer from which this is faster: the call itself costs 10 µs more."""
ROWS = 16
"""The rows for which the weights are laid; with other numbers of rows the same layout is used."""


class Packed(nn.Module):
    """A linear layer that generates and does not learn; what it was is in its state, as of any linear layer."""

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = laid(weight)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def weight(self) -> Tensor:
        """The weights [outputs, inputs] as a layer has them, copied."""
        plain: Tensor = self._weight.to_dense()
        return plain

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] → […, outputs]. Raises `RuntimeError` where a gradient is wanted, which there is none of."""
        if inputs.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("A packed layer has no gradients; load the model with packed=False.")
        output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        return Packed(self.weight, None if self.bias is None else self.bias.clone())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """torch's hook; its own knows no weights that are laid in another way."""
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *lists: Any
    ) -> None:
        """torch's hook, to which a weight that it does not know would be an unexpected one."""
        rest = dict(state_dict)
        weight = rest.pop(f"{prefix}weight", None)
        if weight is None:
            lists[0].append(f"{prefix}weight")  # what is missing
        else:
            self._weight = laid(weight)
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, *lists)


def laid(weight: Tensor) -> Tensor:
    """`weight` [outputs, inputs] as oneDNN's kernels read it."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return found


def pack(network: nn.Module) -> bool:
    """Lay the weights of `network`'s large linear layers, if it is on a CPU where that helps; whether it has any."""
    if not there():
        return False
    found = False
    for name, part in list(network.named_children()):
        if type(part) is nn.Linear and _pays(part):
            setattr(network, name, Packed(part.weight, part.bias))
            found = True
        else:
            found |= pack(part)
    return found


def _pays(layer: nn.Linear) -> bool:
    weight = layer.weight
    short = weight.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (
        weight.device.type == "cpu" and (short or weight.dtype is torch.float32) and weight.numel() >= LEAST
    )
