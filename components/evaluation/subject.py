"""What a measurement may ask of a loaded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from components.artifact import Model
from components.evaluation.attention import looking
from components.evaluation.measurement import Looked, Subject
from components.families.family import Batch, Networks, Requests


@runtime_checkable
class Coded(Protocol):
    """A family whose rows are codes of a book."""

    def code_use(self, networks: Networks) -> dict[str, float]:
        """How the training data use the book: `perplexity`, and the share of codes that are `used`."""


def subject_of(model: Model) -> Subject:
    """All answers that `model` has, each without gradients."""
    family, networks = model.family, model.networks

    def nats(batch: Batch) -> Tensor | None:
        with torch.inference_mode():
            return family.nats(networks, batch)

    def weighed(batch: Batch, draws: int) -> Tensor | None:
        with torch.inference_mode():
            return family.importance_nats(networks, batch, draws)

    def encode(data: Tensor) -> Tensor | None:
        with torch.inference_mode():
            return family.encode(networks, data)

    def latents(requests: Requests) -> Tensor | None:
        return _latents(model, requests)

    def looks(requests: Requests) -> Looked | None:
        with looking(networks) as found:
            output = model.sample(requests, len(requests))
        weights = found.over(*output.shape[-2:])
        return None if weights is None else (output, weights)

    def book() -> Mapping[str, float]:
        return family.code_use(networks) if isinstance(family, Coded) else {}

    return Subject(model.sample, nats, weighed, encode, latents, looks, family.binarized, book)


def _latents(model: Model, requests: Requests) -> Tensor | None:
    """The field `latent` [N, L] of a fresh state, if the option of that name replaces it."""
    found = _latent(model, requests)
    if found is None:
        return None
    other = dataclasses.replace(requests, options={**requests.options, "latent": -found})
    taken = _latent(model, other)
    return found if taken is not None and torch.equal(taken, -found) else None


def _latent(model: Model, requests: Requests) -> Tensor | None:
    with torch.inference_mode():
        found = getattr(model.family.start(model.networks, requests), "latent", None)
    vectors = isinstance(found, Tensor) and found.dim() == 2 and found.is_floating_point()
    return found.clone() if vectors and found is not None else None
