"""The contract: what every family in the folder must keep. There is no list to edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components import artifact
from components.families.family import (
    END,
    NOTHING,
    Batch,
    Family,
    Kind,
    Requests,
    Shape,
    Task,
    kind_of,
    names,
    select,
    tensors,
)
from components.families.layers import onednn, product
from components.families.layers import packed as packing
from components.families.sampling import Slots, sample
from components.project import TrainOptions
from components.train.step import advance, build
from tests.components.families.rows import (
    an_about,
    assets_of,
    batch_of,
    conditions,
    evaluated,
    made,
    requests_of,
    shapes_of,
)

CASES = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape.data))}")
    for name in names()
    for shape in shapes_of(name)
]
BUDGET = 600
"""Steps in which a family must learn eight examples; a few seconds for each."""


def test_there_are_families_and_each_has_its_own_file() -> None:
    assert {"gan", "gpt", "vae"} <= set(names())
    for name in names():
        assert kind_of(name).__module__ == f"components.families.{name}"


@pytest.mark.parametrize("name", names())
def test_declarations(name: str) -> None:
    family = kind_of(name)
    assert family.kinds <= frozenset(Kind)
    assert family.kinds
    assert family.tasks <= frozenset(Task)
    assert family.tasks
    assert len(family.__doc__ or "") > 40, "the docstring names the paper"
    assert dataclasses.fields(family)
    assert family.private <= set(made(name, shapes_of(name)[0])[1])


@pytest.mark.parametrize("name", names())
def test_search_ranges_hold_the_default_and_can_be_built(name: str) -> None:
    kind = kind_of(name)
    searched = [item for item in dataclasses.fields(kind) if "low" in item.metadata]
    assert "lr" in {item.name for item in searched}
    for item in searched:
        low, high = item.metadata["low"], item.metadata["high"]
        assert low <= item.default <= high
        for value in (low, high):
            kind(**{item.name: type(item.default)(value)})


@pytest.mark.parametrize("name", names())
def test_a_value_of_the_wrong_kind_or_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lr"):
        kind_of(name)(lr=-1.0)
    with pytest.raises(ValueError, match="lr"):
        kind_of(name)(lr="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lr"):
        kind_of(name)(lr=float("nan"))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_losses_are_finite_and_reach_every_parameter_of_their_own_network_only(
    name: str, shape: Shape
) -> None:
    family, networks = made(name, shape)
    for network in networks.values():
        network.train()
    for own, network in networks.items():
        others = [other for key, other in networks.items() if key != own]
        for other in others:
            other.requires_grad_(False)
        loss, logged = family.loss(own, networks, batch_of(shape, 6), 0)
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert all(value.shape == () for value in logged.values())
        loss.backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{own}.{key} takes no part in its loss"
        for other in others:
            assert all(parameter.grad is None for parameter in other.parameters())
            other.requires_grad_(True)
        network.zero_grad()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_nats_are_one_finite_number_a_row(name: str, shape: Shape) -> None:
    family, networks = made(name, shape)
    with torch.no_grad():
        nats = family.nats(evaluated(networks), batch_of(shape, 5))
    if nats is not None:
        assert nats.shape == (5,)
        assert torch.isfinite(nats).all()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_an_artifact_gives_identical_seeded_samples(name: str, shape: Shape, tmp_path: Path) -> None:
    family, networks = made(name, shape)
    networks = evaluated(networks)
    before = sample(family, networks, requests_of([3, 1, 4, 1, 5], shape), width=4)
    assets = assets_of(shape, tmp_path / "assets")
    artifact.save(tmp_path / "model", family, networks, shape, an_about(shape), assets)
    model = artifact.load(tmp_path / "model", packed=False)
    assert model.family == family
    after = model.sample(requests_of([3, 1, 4, 1, 5], shape), width=4)
    assert torch.equal(before, after)
    assert torch.equal(after[1], after[3]), "one seed, one content"
    assert not torch.equal(after[0], after[1])
    assert after.shape == (5, *shape.data)
    assert torch.isfinite(after).all()


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_row_started_late_in_a_full_state_equals_the_same_row_alone(
    name: str, shape: Shape, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, networks = made(name, shape)
    networks = evaluated(networks)
    if packed:
        monkeypatch.setattr(packing, "LEAST", 1)
        for network in networks.values():
            packing.pack(network)
    alone = Slots(family, networks, 4, requests_of([7], shape))
    alone.admit([0], requests_of([7], shape))
    run(alone, 0)
    late = Slots(family, networks, 4, requests_of([7], shape))
    late.admit([0, 1, 2, 3], requests_of([11, 12, 13, 14], shape))
    late.advance()
    run(late, 2)
    late.admit([2], requests_of([7], shape))
    run(late, 2)
    assert torch.equal(alone.state.output[0], late.state.output[2])
    assert torch.equal(alone.state.length[0], late.state.length[2])


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_done_rows_are_left_alone_and_idle_ones_may_hold_anything(name: str, shape: Shape) -> None:
    family, networks = made(name, shape)
    networks = evaluated(networks)
    slots = Slots(family, networks, 3, requests_of([1], shape))
    slots.admit([1], requests_of([5], shape))
    with torch.inference_mode():
        for value in tensors(slots.state).values():
            if value.is_floating_point():
                value[0] = float("nan")
    run(slots, 1)
    finished = slots.state.output[1].clone()
    assert torch.isfinite(finished).all()
    slots.advance()
    assert torch.equal(slots.state.output[1], finished)
    assert slots.state.output.shape[0] == slots.state.done.shape[0] == slots.state.step.shape[0] == 3


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("faster", [False, True], ids=["plain", "faster"])
def test_one_step_of_the_engine_changes_every_network(
    name: str, shape: Shape, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by oneDNN's products, which only large layers on some processors take."""
    monkeypatch.setattr(product, "wanted", lambda: faster and onednn.there())
    monkeypatch.setattr(product, "LEAST", 1)
    family, networks = made(name, shape)
    before = {key: value.clone() for key, value in artifact.flatten(networks).items()}
    trainee = build(family, networks, options_for(name), torch.device("cpu"), world=1)
    for step in range(8):
        advance(trainee, batch_of(shape, 8, step), step)
    changed = {
        key.partition(".")[0]
        for key, value in artifact.flatten(networks).items()
        if not torch.equal(value, before[key])
    }
    assert changed == set(networks)


@pytest.mark.parametrize("name", names())
def test_eight_examples_are_learned(name: str) -> None:
    """A fixed budget halves −log p where the family has it, else the energy distance to the examples."""
    shape = shapes_of(name)[0]
    family, networks = made(name, shape)
    batch = examples(shape)
    options = options_for(name, ema=0.99)
    trainee = build(family, networks, options, torch.device("cpu"), world=1)
    before = distance(family, trainee.sampled, batch)
    for step in range(BUDGET):
        advance(trainee, batch, step)
        if step % 50 == 49 and (after := distance(family, trainee.sampled, batch)) < before / 2:
            break
    assert after < before / 2, f"{before} became {after} in {step + 1} steps"


def options_for(name: str, **fields: float) -> TrainOptions:
    """The default options, without what the family refuses."""
    return TrainOptions.model_validate({**fields, **({"clip": 0} if kind_of(name).unclipped else {})})


def examples(shape: Shape) -> Batch:
    """Eight smooth two-level patterns, or documents of counted letters, repeated so that a batch has 64 rows."""
    rows = torch.arange(64) % 8
    if shape.vocabulary:
        return documents(shape, rows[:16])
    axes = torch.meshgrid(*(torch.linspace(0, 3.14, size) for size in shape.data), indexing="ij")
    phase = sum(axes[1:], start=axes[0])
    data = torch.stack(
        [torch.sign(torch.cos(phase * (1 + row % 4) + row // 4)) * 0.8 for row in rows.tolist()]
    )
    return Batch(data=data, length=torch.full((64,), shape.data[0]), **conditions(shape, rows))


def documents(shape: Shape, rows: Tensor) -> Batch:
    """Row r counts in steps of r, from its source where there is one, and is shorter the larger r is."""
    width, place = shape.data[0], torch.arange(shape.data[0])
    data = 1 + (rows[:, None] * (1 + place)) % (shape.vocabulary - 1)
    length = width - rows
    data[:, 0] = END
    data[torch.arange(len(rows)), length - 1] = END
    data[place >= length[:, None]] = NOTHING
    source = None
    if shape.source is not None:
        source = (1 + rows % (shape.vocabulary - 1))[:, None].expand(-1, *shape.source)
    return Batch(data=data, length=length, source=source)


def distance(family: Family, networks: Mapping[str, nn.Module], batch: Batch) -> float:
    training = {name: network.training for name, network in networks.items()}
    for network in networks.values():
        network.eval()
    with torch.no_grad():
        nats = family.nats(networks, batch)
        if nats is not None:
            found = float(nats.mean())
        else:
            asked = {name: getattr(batch, name) for name in ("label", "prompt", "source")}
            drawn = sample(family, networks, Requests(seed=torch.arange(64), **asked), width=64)
            found = energy(drawn.flatten(1), batch.data.flatten(1))
    for name, network in networks.items():
        network.train(training[name])
    return found


def energy(left: Tensor, right: Tensor) -> float:
    """The energy distance of two samples [N, D] (Székely & Rizzo 2013)."""
    across, inside = (
        torch.cdist(left, right).mean(),
        torch.cdist(left, left).mean() + torch.cdist(right, right).mean(),
    )
    return float(2 * across - inside)


def run(slots: Slots, row: int) -> None:
    for _ in range(10_000):
        if bool(slots.state.done[row]):
            return
        slots.advance()
    raise AssertionError("the row never finished")


def test_rows_can_be_chosen_and_repeated() -> None:
    chosen = select(Requests(seed=torch.tensor([5, 6, 7])), torch.tensor([2, 2, 0]))
    assert chosen.seed.tolist() == [7, 7, 5]
