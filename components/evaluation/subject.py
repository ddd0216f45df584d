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
from components.families.family import Batch, Networks, Requests, move
from components.families.sampling import device_of


@runtime_checkable
class Coded(Protocol):
    """A family whose rows are codes of a book."""

    def code_use(self, networks: Networks) -> dict[str, float]:
        """How the training data use the book: `perplexity`, and the share of codes that are `used`."""


def subject_of(model: Model) -> Subject:
    """All answers that `model` has, each without gradients, computed where its networks are; they lie on the CPU."""
    family, networks, device = model.family, model.networks, device_of(model.networks)

    def nats(batch: Batch) -> Tensor | None:
        with torch.inference_mode():
            return _home(family.nats(networks, move(batch, device)))

    def weighed(batch: Batch, draws: int) -> Tensor | None:
        with torch.inference_mode():
            return _home(family.importance_nats(networks, move(batch, device), draws))

    def encode(data: Tensor) -> Tensor | None:
        with torch.inference_mode():
            return _home(family.encode(networks, data.to(device)))

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
        here = move(requests, device_of(model.networks))
        found = getattr(model.family.start(model.networks, here), "latent", None)
    vectors = isinstance(found, Tensor) and found.dim() == 2 and found.is_floating_point()
    return found.cpu().clone() if vectors and found is not None else None


def _home(answer: Tensor | None) -> Tensor | None:
    return None if answer is None else answer.cpu()
