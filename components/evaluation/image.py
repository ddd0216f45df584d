"""Metrics on feature vectors, of images and of sound: Fréchet distance, precision, recall, density and coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.evaluation.intervals import average, resampled, share
from components.evaluation.report import Metric
from components.families.family import Batch
from components.families.sampling import mix
from components.modalities.image import Image

NEIGHBOURS = 5
"""k of precision, recall, density and coverage, as Naeem et al. 2020 choose it."""
RESAMPLES = 100
CHUNK = 1000
"""Rows whose distances to all others are held at once."""


@dataclass(frozen=True)
class Moments:
    """The mean [D] and the covariance [D, D] of feature vectors."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """The moments of `features` [N, D], N > 1."""
    return Moments(features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1))


def frechet_distance(one: Moments, other: Moments) -> float:
    """‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2 (C₁C₂)^½) (Heusel et al. 2017, section 3; no further root is taken).

    The trace of (C₁C₂)^½ is the sum of the roots of the eigenvalues of the symmetric C₁^½ C₂ C₁^½.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    traces = one.covariance.trace() + other.covariance.trace()
    distance = (one.mean - other.mean).square().sum() + traces - 2 * shared
    return max(0.0, float(distance))


def resamples(features: Tensor, seed: int) -> list[Moments]:
    """The moments of `RESAMPLES` bootstrap draws of the rows of `features` [N, D]."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(features)
    return [moments(features[torch.randint(rows, (rows,), generator=generator)]) for _ in range(RESAMPLES)]


def radii(features: Tensor) -> Tensor:
    """The distance of each row of `features` [N, D], N > k, to its k-th nearest other row, [N]."""
    pieces = [
        torch.cdist(part, features).topk(NEIGHBOURS + 1, largest=False).values[:, -1]
        for part in torch.split(features, CHUNK)
    ]
    return torch.cat(pieces)


@dataclass(frozen=True)
class Neighbourhoods:
    """What each row says of the two sets: about each sample [M] and about each real row [N]."""

    precision: Tensor
    density: Tensor
    recall: Tensor
    coverage: Tensor


def neighbourhoods(real: Tensor, reach: Tensor, samples: Tensor) -> Neighbourhoods:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), row by row.

    `real` [N, D] with its `radii` `reach` [N], `samples` [M, D]. A sample is precise if it lies in the ball
    of any real row that reaches to that row's k-th neighbour; its density is the number of such balls over
    k. Recall and coverage, which depend on the number of samples, are taken with as many samples as real
    rows, and averaged over the M // N parts of the samples (with all samples if there are fewer).
    """
    inside = [(torch.cdist(part, real) <= reach).sum(1) for part in torch.split(samples, CHUNK)]
    balls = torch.cat(inside).double()
    whole = len(samples) // len(real) * len(real)
    parts = torch.split(samples[:whole], len(real)) if whole else (samples,)
    found = [_found(real, reach, part) for part in parts]
    return Neighbourhoods(
        precision=(balls > 0).double(),
        density=balls / NEIGHBOURS,
        recall=torch.stack([recalled for recalled, _ in found]).double().mean(0),
        coverage=torch.stack([covered for _, covered in found]).double().mean(0),
    )


def _found(real: Tensor, reach: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Which real rows lie in a sample's ball, and whose own ball holds a sample; [N] each."""
    around = radii(samples)
    recalled, covered = [], []
    for rows, reached in zip(torch.split(real, CHUNK), torch.split(reach, CHUNK), strict=True):
        distances = torch.cdist(rows, samples)
        recalled.append((distances <= around).any(1))
        covered.append(distances.amin(1) <= reached)
    return torch.cat(recalled), torch.cat(covered)


@dataclass(frozen=True)
class HeldOut:
    """Held-out features [N, D], with all that does not depend on what is measured against them."""

    features: Tensor
    reach: Tensor
    moments: Moments
    resamples: list[Moments]


def held_out(features: Tensor, seed: int) -> HeldOut:
    """Prepare held-out `features` [N, D], N > k, for `measure`."""
    return HeldOut(features, radii(features), moments(features), resamples(features, mix(seed, 0)))


def measure(prefix: str, real: HeldOut, samples: Tensor, seed: int) -> dict[str, Metric]:
    """The five metrics of `samples` [M, D], M > k, against held-out rows, named `prefix`_…, with intervals.

    The Fréchet distance is resampled on both sides; of the others each is a mean over the rows of one side,
    and its interval takes the other side as given.
    """
    distance = frechet_distance(real.moments, moments(samples))
    pairs = zip(real.resamples, resamples(samples, mix(seed, 1)), strict=True)
    draws = torch.tensor([frechet_distance(one, other) for one, other in pairs])
    near = neighbourhoods(real.features, real.reach, samples)
    value, low, high = resampled(distance, draws)
    estimates = {
        "frechet_distance": (value, max(0.0, low), high),
        "precision": share(near.precision),
        "recall": share(near.recall),
        "density": average(near.density),
        "coverage": share(near.coverage),
    }
    return {f"{prefix}_{name}": Metric(*found, Image.metrics[name]) for name, found in estimates.items()}


def eight_bit(data: Tensor) -> Tensor:
    """`data` in [−1, 1] moved to the nearest of the 256 levels that a client's PNG and real rows have."""
    return data.clamp(-1.0, 1.0).add(1.0).mul(127.5).round().mul(2.0 / 255.0).sub(1.0)


def independent_pixels(
    train: Iterable[Batch], sizes: Iterable[int], seed: int, rounded: Callable[[Tensor], Tensor] = eight_bit
) -> Iterator[Tensor]:
    """The trivial model: parts of `sizes` rows [n, …], each value normal by itself, then clipped and `rounded`."""
    rows, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in train:
        values = batch.data.double()
        rows, total, squares = rows + len(batch), total + values.sum(0), squares + values.square().sum(0)
    mean = total / rows
    deviation = (squares / rows - mean.square()).clamp(min=0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        noise = torch.randn(size, *mean.shape, generator=generator)
        yield rounded(noise.mul(deviation.float()).add(mean.float()))
