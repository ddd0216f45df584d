"""A judge of captions: pictures and captions in one space, trained on a dataset's train split and kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from components.data.dataset import Batches, Dataset, Position, check_same
from components.evaluation.judge import Progress, convolution
from components.evaluation.kept import About, kept
from components.families.family import NOTHING, Batch

VERSION = 1
"""Raised when anything here changes the judge."""
SEED = 20_210_103
DIMENSION = 64
BATCH, PART = 128, 512
EPOCHS, FEWEST_STEPS, MOST_STEPS = 40, 250, 600
LR, DECAY, DROPOUT, FORGOTTEN = 3e-3, 0.1, 0.1, 0.2
"""The last is the share of a caption's tokens that a training step does not see."""
HOTTEST = 50.0
"""The most by which a similarity is multiplied."""


class Matcher(nn.Module):
    """A convolutional encoder of pictures and a bag of tokens for captions, both onto the unit sphere.

    The two towers and the loss are those of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.3), made so small
    that a thousand pictures are enough.
    """

    def __init__(self, shape: tuple[int, ...], vocabulary: int) -> None:
        super().__init__()
        channels, height, width = shape
        patch = max(1, min(height, width) // 32)
        layers = convolution(channels, 16, 3 if patch == 1 else patch, patch)
        side, inputs = math.ceil(min(height, width) / patch), 16
        while side > 4:
            outputs = min(2 * inputs, 64)
            layers += convolution(inputs, outputs, 3, 2)
            side, inputs = math.ceil(side / 2), outputs
        layers += [
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(16 * inputs, DIMENSION),
        ]
        self.pictures = nn.Sequential(*layers)
        self.tokens = nn.Embedding(vocabulary, DIMENSION)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.captions = nn.Linear(DIMENSION, DIMENSION)
        self.heat = nn.Parameter(torch.tensor(2.0))

    def seen(self, data: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → [N, 64] on the unit sphere."""
        return normalize(self.pictures(data), dim=1)

    def read(self, prompt: Tensor) -> Tensor:
        """Tokens [N, P], `NOTHING` where there is none → [N, 64] on the unit sphere."""
        there = prompt >= 0
        total = (self.tokens(prompt.clamp(min=0)) * there[..., None]).sum(1)
        return normalize(self.captions(total / there.sum(1, keepdim=True).clamp(min=1)), dim=1)

    def loss(self, data: Tensor, prompt: Tensor, whole: Tensor) -> Tensor:
        """InfoNCE both ways (van den Oord et al. 2018); of rows with the same `whole` caption none is the wrong one."""
        logits = self.seen(data) @ self.read(prompt).T * self.heat.exp().clamp(max=HOTTEST)
        same = (whole[:, None] == whole[None]).all(2) & ~torch.eye(len(data), dtype=torch.bool)
        logits = logits.masked_fill(same, -math.inf)
        right = torch.arange(len(data))
        return 0.5 * (cross_entropy(logits, right) + cross_entropy(logits.T, right))


@dataclass(frozen=True)
class CaptionJudge:
    """A trained `Matcher` and the hash of its file."""

    network: Matcher
    digest: str

    def read(self, captions: Tensor) -> Tensor:
        """Captions [K, P] → where they stand, [K, 64]."""
        with torch.inference_mode():
            return torch.cat([self.network.read(part) for part in torch.split(captions, PART)])

    def ranks(self, data: Tensor, right: Tensor, captions: Tensor) -> Tensor:
        """The rank of the caption `right` [N] among those at `captions` [K, 64] for each picture [N, C, H, W].

        float64 [N]; 1 is the best, and captions that are equally near share their mean rank.
        """
        with torch.inference_mode():
            near = self.network.seen(data) @ captions.T
        own = near.gather(1, right[:, None])
        return 1 + (near > own).sum(1).double() + 0.5 * ((near == own).sum(1).double() - 1)


def chance(captions: int) -> float:
    """The mean reciprocal rank of a guess among so many captions, (1 + 1/2 + … + 1/K) / K."""
    return sum(1 / rank for rank in range(1, captions + 1)) / captions


def caption_judge(dataset: Dataset, cache: Path, progress: Progress) -> CaptionJudge:
    """The judge of a dataset with captions: read from `cache`, or trained and written there by one process."""
    assert dataset.shape.prompt is not None, "the dataset has captions"
    path = cache / f"captions-{VERSION}-{dataset.revision}.safetensors"
    found = kept(path, lambda: _train(dataset, progress))
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        network = Matcher(dataset.shape.data, dataset.shape.prompt[1])
    network.load_state_dict(found.weights, assign=True)
    network.eval().requires_grad_(False)
    return CaptionJudge(network, found.digest)


def _train(dataset: Dataset, progress: Progress) -> tuple[Matcher, About]:
    assert dataset.shape.prompt is not None, "the dataset has captions"
    steps = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * dataset.rows("train") // BATCH))
    batch = min(BATCH, dataset.rows("train"))
    stream = Batches(dataset, "train", batch, SEED).from_position(Position())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Matcher(dataset.shape.data, dataset.shape.prompt[1])
        optimizer = AdamW(network.parameters(), lr=LR, weight_decay=DECAY, fused=True)
        schedule = OneCycleLR(optimizer, LR, total_steps=steps)
        for step, (rows, _) in enumerate(islice(stream, steps)):
            if step % (steps // 20) == 0:
                progress(f"training the judge of captions … {round(100 * step / steps)}%")
            optimizer.zero_grad()
            prompt = prompts(rows)
            torch.autograd.backward(network.loss(changed(rows.data), _forgotten(prompt), prompt))
            optimizer.step()
            schedule.step()
    check_same(dataset)  # nothing is kept that was trained on rows of two revisions
    return network, {"version": VERSION, "revision": dataset.revision}


def prompts(batch: Batch) -> Tensor:
    """The captions [N, P] of a batch that has them."""
    assert batch.prompt is not None, "a dataset with captions has prompts"
    return batch.prompt


def changed(data: Tensor) -> Tensor:
    """Pictures [N, C, H, W] moved, turned and scaled a little, and with other brightness, contrast and colour."""
    rows, channels = data.shape[:2]
    angle, scale = _around(0.0, 0.2, rows), _around(1.0, 0.2, rows, 2)
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(rows, 2, 2)
    place = torch.cat([turned * scale[:, None], _around(0.0, 0.15, rows, 2, 1)], 2)
    grid = affine_grid(place, list(data.shape), align_corners=False)
    moved = grid_sample(data, grid, padding_mode="border", align_corners=False)
    contrast, light = _around(1.0, 0.2, rows, channels, 1, 1), _around(0.0, 0.15, rows, channels, 1, 1)
    return (moved * contrast + light).clamp(-1.0, 1.0)


def _around(middle: float, reach: float, *shape: int) -> Tensor:
    return middle + reach * (2 * torch.rand(shape) - 1)


def _forgotten(prompt: Tensor) -> Tensor:
    """The captions without some of their tokens; the first is always kept."""
    lost = torch.rand(prompt.shape) < FORGOTTEN
    lost[:, 0] = False
    return prompt.masked_fill(lost, NOTHING)
