from __future__ import annotations

import pytest
import torch
from torch import nn

from components.artifact import flatten
from components.errors import UserError
from components.families.attention_gan import AttentionGAN
from components.families.family import Batch, Shape
from components.families.vae import VAE
from components.project import TrainOptions
from components.train.adapters import adapt, merged
from components.train.step import advance, build, networks_for

SHAPE = Shape(data=(1, 8, 8))


def adapted() -> tuple[VAE, dict[str, nn.Module]]:
    family = VAE(latent=4, width=32, depth=1)
    networks = networks_for(family, SHAPE, 0)
    adapt(networks, 2)
    return family, networks


def test_fresh_adapters_change_nothing() -> None:
    family, networks = adapted()
    plain = flatten(networks_for(family, SHAPE, 0))
    assert all(
        torch.equal(value, plain[key])
        for key, value in flatten(merged(networks_for(family, SHAPE, 1), networks)).items()
    )


def test_only_the_adapters_learn_and_the_merged_network_computes_the_same() -> None:
    family, networks = adapted()
    before = {key: value.clone() for key, value in flatten(networks).items()}
    trainee = build(family, networks, TrainOptions(ema=0.0), torch.device("cpu"), world=1)
    data = torch.rand(16, *SHAPE.data) * 2 - 1
    for step in range(5):
        advance(trainee, Batch(data=data, length=torch.ones(16)), step)
    changed = {key for key, value in flatten(networks).items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith((".up", ".down")) for key in changed)
    whole = merged(networks_for(family, SHAPE, 1), networks)
    assert flatten(whole).keys() == flatten(networks_for(family, SHAPE, 0)).keys()
    latent = torch.randn(3, 4)
    ours, theirs = networks["autoencoder"].decode(latent), whole["autoencoder"].decode(latent)  # type: ignore[operator]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_network_without_linear_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer or embedding"):
        adapt({"convolutions": nn.Conv2d(1, 1, 3)}, 2)


def test_weights_that_are_computed_from_others_are_refused() -> None:
    networks = AttentionGAN(width=8).networks(Shape(data=(1, 16, 16), classes=2))
    with pytest.raises(UserError, match="computes its weights from others, as by spectral norm"):
        adapt(networks, 2)
    assert all(weight.requires_grad for network in networks.values() for weight in network.parameters())
