"""A look inside: what lies between two samples, what each latent does, pictures that are like a given one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from components.evaluation.asked import Asked, Rows
from components.evaluation.attention import attention_picture
from components.evaluation.condition import Condition, Facts
from components.evaluation.image import eight_bit
from components.evaluation.measurement import Subject
from components.evaluation.sheet import sheet
from components.families.sampling import noise

DOWN, ACROSS = 8, 9
"""Lines and steps of a picture."""
LOOKED = 6
"""Pictures whose attention is shown."""
FARTHEST = 3.0
"""How far a latent is moved to both sides; a standard normal one is rarely farther."""
NEAR = 0.5
"""How far variations lie from the latents of their picture, in standard deviations of the prior."""
ENCODED = 1_000
"""Held-out rows whose latents are looked at."""
ACTIVE = 0.01
"""The least variance over the data of a latent that is used (Burda et al. 2016, arXiv:1509.00519, section 5.2)."""


@dataclass(frozen=True)
class Inside:
    """Pictures by file name, and facts."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Explorer:
    """Draws what the held-out rows ask for from latents of our choice."""

    subject: Subject
    condition: Condition
    test: Rows
    width: int
    seed: int

    def latents(self, rows: int, seed: int) -> Tensor | None:
        """The latents [rows, L] that the first rows' requests would be drawn from, if the model has any."""
        asked = self.test.at(torch.arange(rows))
        return self.subject.latents(self.condition.requests(asked, torch.arange(rows) + seed))

    def attention(self) -> dict[str, bytes]:
        """Where the model looks while it draws what the first rows ask for, if it has attention."""
        places = torch.arange(LOOKED)
        looked = self.subject.looks(self.condition.requests(self.test.at(places), places + self.seed))
        picture = None if looked is None else attention_picture(eight_bit(looked[0]), looked[1])
        return {} if picture is None else {"attention.png": picture}

    def drawn(self, latents: Tensor, places: Tensor) -> Tensor:
        """Pictures [R, K, C, H, W] from latents [R, K, L], asked for as the held-out rows at `places` [R] are."""
        _, columns, size = latents.shape
        every = places.repeat_interleave(columns)
        requests = self.condition.requests(self.test.at(every), every + self.seed)
        given = dataclasses.replace(requests, options={"latent": latents.reshape(-1, size)})
        found = eight_bit(self.subject.sample(given, self.width))
        return found.view(len(places), columns, *found.shape[1:])


def explored(subject: Subject, condition: Condition, test: Rows, width: int, seed: int) -> Inside:
    """All that a model with latents or attention shows; nothing of one without."""
    explorer = Explorer(subject, condition, test, width, seed)
    files = explorer.attention()
    first, last = explorer.latents(DOWN, seed), explorer.latents(DOWN, seed + DOWN)
    if first is None or last is None:
        return Inside(files)
    files["interpolation.png"] = sheet(explorer.drawn(between(first, last), torch.arange(DOWN)), ())
    means = _encoded(subject, test)
    if means is None or means.dim() != 2 or means.shape[1] != first.shape[1]:
        return Inside(files)
    files["variations.png"] = _variations(explorer, test.at(torch.arange(min(DOWN, len(test)))), means)
    files["traversal.png"] = _traversal(explorer, means)
    active = float((means.double().var(0) > ACTIVE).sum())
    return Inside(files, {"active_latents": {"model": active}})


def _encoded(subject: Subject, test: Rows) -> Tensor | None:
    """The latents [N, L] of the first held-out rows, in parts, as large pictures together fill a memory."""
    found = []
    for rows, _ in test.parts(min(ENCODED, len(test))):
        means = subject.encode(rows.data)
        if means is None:
            return None
        found.append(means)
    return torch.cat(found)


def between(first: Tensor, last: Tensor) -> Tensor:
    """Nine steps from `first` [R, L] to `last` on the great circle, as normal latents have all one length; [R, 9, L].

    White 2016 (arXiv:1609.04468, section 2.1).
    """
    share = torch.linspace(0, 1, ACROSS).view(1, -1, 1)
    cosine = torch.nn.functional.cosine_similarity(first, last, dim=1).clamp(-1, 1)
    angle = cosine.acos().clamp(1e-4, torch.pi - 1e-4).view(-1, 1, 1)
    ends = first[:, None] * ((1 - share) * angle).sin() + last[:, None] * (share * angle).sin()
    return ends / angle.sin()


def _traversal(explorer: Explorer, means: Tensor) -> bytes:
    """A line for each latent that varies most over the data: the first picture's, with that one moved from −3 to 3."""
    varies = means.double().var(0)
    chosen = varies.topk(min(DOWN, means.shape[1])).indices
    latents = means[0].repeat(len(chosen), ACROSS, 1)
    for row, place in enumerate(chosen.tolist()):
        latents[row, :, place] = torch.linspace(-FARTHEST, FARTHEST, ACROSS)
    names = [f"z{place}: {float(varies[place]):.2f}" for place in chosen.tolist()]
    heads = [f"{step:g}" for step in torch.linspace(-FARTHEST, FARTHEST, ACROSS).tolist()]
    return sheet(explorer.drawn(latents, torch.zeros(len(chosen), dtype=torch.int64)), names, heads)


def _variations(explorer: Explorer, rows: Asked, means: Tensor) -> bytes:
    """A line for each of the first held-out pictures: it, what is made of its latents, and of latents near them."""
    down = len(rows)
    steps = torch.arange(ACROSS - 2).repeat(down)
    seeds = torch.arange(down).repeat_interleave(ACROSS - 2) + explorer.seed
    moves = noise(seeds, steps, (means.shape[1],)).view(down, ACROSS - 2, -1) * NEAR
    near = torch.cat([torch.zeros_like(moves[:, :1]), moves], 1) + means[:down, None]
    pictures = torch.cat([rows.data[:down, None], explorer.drawn(near, torch.arange(down))], 1)
    return sheet(pictures, (), ["real", "again", *[""] * (ACROSS - 2)])
