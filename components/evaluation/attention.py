"""Where a network looks: the weights of its attention while it draws, as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from components.evaluation.sheet import sheet

SCALES = (1, 2, 4, 8, 16, 32)
"""By how much a grid of places may be coarser than the picture."""
ASKING = ((0.3, 0.25), (0.3, 0.5), (0.3, 0.75), (0.7, 0.25), (0.7, 0.5), (0.7, 0.75))
"""The places whose attention is shown, as shares of height and width."""
DIM = 0.3
"""How bright a picture stays under its attention."""


class Looks(TorchFunctionMode):
    """Keeps the weights [N, places, seen] that were computed last of attention with so many places."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}

    def keep(self, weights: Tensor) -> None:
        """Take the weights of one attention, [N, places, seen]."""
        self.found[weights.shape[1]] = weights.detach().float().cpu()

    def over(self, height: int, width: int) -> Tensor | None:
        """The weights with the most places of a grid over a picture; attention among the words of a caption is none."""
        places = [count for count in self.found if _grid(count, (height, width)) is not None]
        return self.found[max(places)] if places else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at each call of the fused attention, and let it pass."""
        named = dict(kwargs or {})
        if func is scaled_dot_product_attention:
            self.keep(_weights(args[0], args[1], named.get("attn_mask")))
        return func(*args, **named)


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax of [N, heads, L, size] by [N, heads, S, size], mean over the heads, [N, L, S]."""
    scores = queries.float() @ keys.float().transpose(2, 3) / math.sqrt(queries.shape[3])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(3).mean(1)


@contextmanager
def looking(networks: Mapping[str, nn.Module]) -> Iterator[Looks]:
    """Keep where the networks look: at the fused attention, and in modules that give their weights by `map`."""
    looks = Looks()

    def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mapped: Callable[[Tensor], Tensor] = getattr(module, "map")  # noqa: B009
        looks.keep(mapped(inputs[0]))

    modules = [module for network in networks.values() for module in network.modules()]
    hooks = [module.register_forward_pre_hook(seen) for module in modules if hasattr(module, "map")]
    try:
        with looks, torch.inference_mode():
            yield looks
    finally:
        for hook in hooks:
            hook.remove()


def attention_picture(pictures: Tensor, weights: Tensor) -> bytes | None:
    """A line for each of `pictures` [N, C, H, W]: it, and red where each of six places (green) looks.

    None where `weights` [N, places, seen] are not between places of the picture.
    """
    size = (pictures.shape[2], pictures.shape[3])
    places = _grid(weights.shape[1], size)
    # beyond the places themselves stand the words of a caption
    seen = places if weights.shape[2] >= weights.shape[1] else _grid(weights.shape[2], size)
    if places is None or seen is None:
        return None
    plain = pictures if pictures.shape[1] == 3 else pictures.expand(-1, 3, -1, -1)
    columns = [plain, *(_lit(plain, weights, places, seen, spot) for spot in ASKING)]
    return sheet(torch.stack(columns, 1), ())


def _grid(places: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The sides of a grid of so many places over a picture of `size`."""
    grids = [(-(-size[0] // scale), -(-size[1] // scale)) for scale in SCALES]
    return next((grid for grid in grids if grid[0] * grid[1] == places), None)


def _lit(
    plain: Tensor, weights: Tensor, places: tuple[int, int], seen: tuple[int, int], spot: tuple[float, float]
) -> Tensor:
    """Dark pictures [N, 3, H, W] with red by the attention of the place at `spot`, and the place itself green."""
    row, column = (int(share * side) for share, side in zip(spot, places, strict=True))
    found = weights[:, row * places[1] + column, : seen[0] * seen[1]].view(-1, 1, *seen)
    heat = interpolate(found / found.amax((1, 2, 3), keepdim=True).clamp(min=1e-9), plain.shape[2:])
    lit = (plain + 1) * DIM - 1
    lit[:, :1] = torch.maximum(lit[:, :1], 2 * heat - 1)
    top, left = (int(share * side) for share, side in zip(spot, plain.shape[2:], strict=True))
    lit[:, :, top, left] = torch.tensor([-1.0, 1.0, -1.0])
    return lit
