"""Linear layers for generating on a CPU, whose weights lie as oneDNN's kernels read them.

torch lays the weights anew for each product, which costs more than the product itself where rows are few. oneDNN lays
them once, and a row's bits then depend less on how many rows there are.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 2**16
"""Weights of a layer from which this is faster: the call itself costs 10 µs more."""
ROWS = 16
"""The rows for which the weights are laid; with other numbers of rows the same layout is used."""
MACHINES = ("x86_64", "AMD64")
"""Where this was measured."""


class Packed(nn.Module):
    """A linear layer that generates and does not learn; what it was is in its state, as of any linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    @property
    def weight(self) -> Tensor:
        """The weights [outputs, inputs] as a layer has them, copied."""
        plain: Tensor = self._weight.to_dense()
        return plain

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] → […, outputs]."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")
        return output

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """torch's hook; its own knows no weights that are laid in another way."""
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)


def pack(network: nn.Module) -> None:
    """Lay the weights of `network`'s large linear layers, if it is on a CPU on which that is faster."""
    if not there():
        return
    for name, part in list(network.named_children()):
        if type(part) is nn.Linear and _pays(part):
            setattr(network, name, Packed(part))
        else:
            pack(part)


def there() -> bool:
    """Whether this torch has the kernels, which it makes for its own compiler, on a machine where they are faster."""
    return (
        platform.machine() in MACHINES
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _pays(layer: nn.Linear) -> bool:
    weight = layer.weight
    short = weight.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (
        weight.device.type == "cpu" and (short or weight.dtype is torch.float32) and weight.numel() >= LEAST
    )
