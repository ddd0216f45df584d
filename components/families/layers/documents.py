"""Rows that hold several documents: where each begins, and how to lay each into a row of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from components.families.family import END, NOTHING


def later(tokens: Tensor) -> Tensor | None:
    """Where documents behind the first begin in `tokens` [N, L], bool [N, L]; None if no row has any.

    An `END` behind which nothing follows closes a document and begins none.
    """
    follows = torch.ones_like(tokens, dtype=torch.bool)
    follows[:, :-1] = tokens[:, 1:] != NOTHING
    boundary = (tokens == END) & follows
    boundary[:, 0] = False
    return boundary if bool(boundary.any()) else None


def beginnings(boundary: Tensor, first: int = 0, begin: int = 0) -> Tensor:
    """The place where each token's document begins, [N, L], given where documents begin, bool [N, L].

    The row starts at place `first`, in a document that begins at `begin`.
    """
    place = torch.arange(first, first + boundary.shape[1], device=boundary.device)
    return torch.where(boundary, place, begin).cummax(1).values


def apart(tokens: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """Each document of `tokens` [N, L] as a row of its own, [D, M] padded with `NOTHING`.

    Also returns where in D × M each token went, [N, L].
    """
    within = torch.arange(tokens.shape[1], device=tokens.device) - beginnings(boundary)
    many = boundary.sum(1) + 1
    document = boundary.cumsum(1) + (many.cumsum(0) - many)[:, None]
    width = int(within.max()) + 1
    place = document * width + within
    rows = torch.full((int(many.sum()) * width,), NOTHING, device=tokens.device)
    return rows.scatter_(0, place.flatten(), tokens.flatten()).view(-1, width), place
