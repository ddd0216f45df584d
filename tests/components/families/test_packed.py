"""Packed linear layers: the same products but for their last bits, the same bits wherever a row stands."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from components import artifact
from components.families.family import Shape
from components.families.layers.onednn import there
from components.families.layers.packed import LEAST, ROWS, Packed, pack
from components.serving import computing
from components.settings import Settings
from components.terms import Terms
from tests.components.families.rows import an_about, made, requests_of

SIZES = [(256, 512), (384, 1536), (1024, 784), (1536, 384)]
PICTURES = Shape(data=(1, 28, 28))

pytestmark = pytest.mark.skipif(not there(), reason="packed layers are for x86 with oneDNN")


def a_packed(layer: nn.Linear) -> Packed:
    return Packed(layer.weight, layer.bias)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_the_same_but_for_its_last_bits(inputs: int, outputs: int, bias: bool) -> None:
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    rows = torch.randn(3, ROWS, inputs)
    assert torch.allclose(a_packed(layer)(rows), layer(rows), atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_row_has_the_same_bits_at_each_place_and_among_any_others(inputs: int, outputs: int) -> None:
    """Alone it may have others: a width of one is another width."""
    packed = a_packed(nn.Linear(inputs, outputs))
    row = torch.randn(inputs)
    seen = set()
    for count in (2, 3, ROWS, ROWS + 1, 64):
        for place in {0, 1, count // 2, count - 1}:
            rows = torch.randn(count, inputs)
            rows[place] = row
            seen.add(packed(rows)[place].numpy().tobytes())
    assert len(seen) == 1


def test_what_it_was_can_be_read_copied_and_replaced() -> None:
    layer, other = (nn.Linear(256, 512).requires_grad_(False) for _ in range(2))
    packed, rows = a_packed(layer), torch.randn(ROWS, 256)
    twin = copy.deepcopy(packed)
    assert torch.equal(twin(rows), packed(rows))
    twin.load_state_dict(other.state_dict())
    assert torch.equal(twin(rows), a_packed(other)(rows))
    assert torch.equal(packed.weight, layer.weight), "the copy is one of its own"
    with pytest.raises(RuntimeError, match="weight"):
        twin.load_state_dict({"bias": layer.bias})


def test_who_wants_a_gradient_is_told() -> None:
    with pytest.raises(RuntimeError, match="no gradients; load the model with packed=False"):
        a_packed(nn.Linear(256, 512))(torch.randn(2, 256, requires_grad=True))


def test_large_layers_are_packed_and_what_they_were_can_be_had() -> None:
    network = nn.Sequential(nn.Linear(256, LEAST // 256), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pack(network)
    assert [type(part) for part in network] == [Packed, nn.ReLU, nn.Linear, nn.LayerNorm]
    after = network.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_artifact_is_loaded_packed_draws_nearly_the_same_and_is_saved_as_it_was(tmp_path: Path) -> None:
    family, networks = made("gan", PICTURES)
    digest = artifact.save(tmp_path / "model", family, networks, PICTURES, an_about(PICTURES), None)
    packed, plain = artifact.load(tmp_path / "model"), artifact.load(tmp_path / "model", packed=False)
    assert packed.packed
    assert not plain.packed
    assert any(isinstance(part, Packed) for part in packed.networks["generator"].modules())
    asked = requests_of([3, 1, 4], PICTURES)
    assert torch.allclose(packed.sample(asked), plain.sample(asked), atol=1e-5)
    again = artifact.save(tmp_path / "again", family, packed.networks, PICTURES, an_about(PICTURES), None)
    assert again == digest


def test_what_is_packed_is_not_shortened_as_well(tmp_path: Path) -> None:
    family, networks = made("gan", PICTURES)
    artifact.save(tmp_path / "model", family, networks, PICTURES, an_about(PICTURES), None)
    with pytest.raises(AssertionError, match="packed"):
        computing.prepare(artifact.load(tmp_path / "model"), Terms(precision="bf16"), Settings())
