"""Products by oneDNN: the same values and gradients but for their last bits, the same bits each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear as usual

from components import compiler
from components.families.family import Batch, Shape
from components.families.gpt import GPT
from components.families.layers import product
from components.families.layers.onednn import maker, there
from components.families.layers.product import Linear, hasten, linear
from components.project import TrainOptions
from components.train.step import advance, build, networks_for

pytestmark = pytest.mark.skipif(not there(), reason="for x86 with oneDNN")


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "wanted", lambda: True)
    monkeypatch.setattr(product, "LEAST", 1)


def tensors(bias: bool) -> list[Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(3, 40, 96), torch.randn(64, 96), *([torch.randn(64)] if bias else [])]
    return [one.requires_grad_() for one in made]


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_the_usual_ones(bias: bool) -> None:
    upstream = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(1))
    found = []
    for call in (usual, linear):
        own = tensors(bias)
        output = call(*own)
        found.append([output, *torch.autograd.grad(output, own, upstream)])
    assert "_Product" in type(linear(*tensors(bias)).grad_fn).__name__
    for left, right in zip(*found, strict=True):
        assert torch.allclose(left, right, atol=1e-4)


def test_gradients_have_gradients() -> None:
    """As a penalty on the slope of a discriminator needs them."""

    def slopes(call: Callable[..., Tensor]) -> list[Tensor]:
        inputs, weight, bias = tensors(True)
        (slope,) = torch.autograd.grad(call(inputs, weight, bias).tanh().sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), (inputs, weight, bias)))

    for left, right in zip(slopes(usual), slopes(linear), strict=True):
        assert torch.allclose(left, right, atol=1e-2, rtol=1e-3)


def test_only_what_a_gradient_needs_is_kept() -> None:
    """So what is not needed may be changed in place, as with the usual products."""
    inputs, weight, bias = tensors(True)
    frozen = weight.detach().clone()
    own = inputs * 1.0
    output = linear(own, frozen, bias)
    own.detach().zero_()
    assert torch.allclose(
        torch.autograd.grad(output.sum(), inputs)[0], frozen.sum(0).expand_as(inputs), atol=1e-4
    )
    given = inputs.detach()
    output = linear(given, weight, bias)
    expected = torch.autograd.grad(usual(given, weight, bias).sum(), weight)[0]
    with torch.no_grad():
        weight.zero_()
    assert torch.allclose(torch.autograd.grad(output.sum(), weight)[0], expected, atol=1e-4)


def test_what_learns_nothing_or_in_bfloat16_is_computed_as_usual() -> None:
    inputs, weight, bias = tensors(True)
    with torch.no_grad():
        assert torch.equal(linear(inputs, weight, bias), usual(inputs, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(inputs, weight, bias).dtype is torch.bfloat16
    double = [one.detach().double().requires_grad_() for one in (inputs, weight, bias)]
    assert torch.equal(linear(*double), usual(*double))


def test_small_products_are_computed_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight, bias = tensors(True)
    monkeypatch.setattr(product, "LEAST", inputs.numel() * len(weight) + 1)
    assert "_Product" not in type(linear(inputs, weight, bias).grad_fn).__name__


def test_layers_keep_what_they_hold() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Bilinear(2, 2, 2), nn.LSTM(4, 4))
    before = network.state_dict()
    hasten(network)
    assert type(network[0]) is Linear
    assert isinstance(network[0], nn.Linear)
    assert list(network.state_dict()) == list(before)
    assert all(value.data_ptr() == before[name].data_ptr() for name, value in network.state_dict().items())


def test_a_training_comes_to_the_same_weights_each_time_and_nearly_to_the_usual_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained() -> dict[str, Tensor]:
        family, shape = GPT(layers=2, heads=2, width=32), Shape(data=(24,), vocabulary=30, prompt=(24, 30))
        networks = networks_for(family, shape, 0)
        trainee = build(family, networks, TrainOptions(ema=0.0, clip=1.0), torch.device("cpu"), world=1)
        rows = torch.randint(1, 30, (16, 24), generator=torch.Generator().manual_seed(2))
        for step in range(5):
            advance(trainee, Batch(data=rows, length=torch.full((16,), 24)), step)
        return {name: value.clone() for name, value in networks["decoder"].state_dict().items()}

    taken: list[None] = []
    multiplied = product._product
    monkeypatch.setattr(product, "_product", lambda *own: (taken.append(None), multiplied(*own))[1])
    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)
    used = len(taken)
    monkeypatch.setattr(product, "wanted", lambda: False)
    plain = trained()
    assert len(taken) == used > 0
    assert all(torch.allclose(first[name], plain[name], atol=2e-3) for name in first)


@pytest.mark.skipif(not compiler.found(), reason="there is no C++ compiler")
def test_what_is_compiled_takes_the_products_of_its_compiler() -> None:
    layer = nn.Linear(16, 16)
    plain = layer(torch.ones(4, 16))
    hasten(layer)
    compiled = torch.compile(layer)
    compiled(torch.ones(4, 16)).sum().backward()
    assert torch.allclose(compiled(torch.ones(4, 16)), plain, atol=1e-5)
    assert layer.weight.grad is not None


def test_the_maker_of_the_processor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 1\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert maker() == "AuthenticAMD"

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert maker() == ""
