"""WaveNet of sound: what is heard, exact likelihoods, cached layers, windows, runs of samples, temperatures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.families.autoregressive import Autoregressive
from components.families.family import Batch, Requests, Shape, select, tensors
from components.families.layers.dilated import Dilated, Entering, Stepping, Whole
from components.families.sampling import Slots, sample
from components.families.wavenet import LEVELS, RUN, SoundState, WaveNet, leveled, network_of
from components.train.step import networks_for
from tests.components.families.rows import batch_of, stirred

SAMPLES = 2 * RUN + 30
"""Two whole runs of the sampler and a part of one."""
SHAPE = Shape(data=(SAMPLES,), classes=3)
DILATIONS = (1, 2, 4, 1, 2, 4)


def small(shape: Shape = SHAPE, **fields: Any) -> tuple[WaveNet, dict[str, nn.Module]]:
    family = WaveNet(**{**WaveNet.small, **fields})
    return family, stirred(networks_for(family, shape, seed=0))


def asked(seeds: list[int], **options: float) -> Requests:
    seed = torch.tensor(seeds)
    values = {name: torch.full((len(seeds),), value) for name, value in options.items()}
    return Requests(seed=seed, label=seed % 3, options=values)


def finished(slots: Slots) -> SoundState:
    while not bool(slots.state.done.all()):
        slots.advance()
    assert isinstance(slots.state, SoundState)
    return slots.state


def sounds(rows: int) -> Batch:
    return batch_of(SHAPE, rows)


def test_a_sample_is_heard_behind_itself_and_as_far_as_the_dilations_reach() -> None:
    family, networks = small(Shape(data=(SAMPLES,)))
    assert family.dilations == (1, 2, 4, 8, 1, 2, 4, 8)
    reach = 2 * (2**4 - 1) + 1  # stacks × (2^layers − 1) + 1
    tokens = torch.randint(LEVELS, (1, SAMPLES), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 50] = (changed[0, 50] + 100) % LEVELS
    with torch.no_grad():
        differs = (networks["decoder"](tokens) != networks["decoder"](changed)).any(2)[0]
    assert differs.nonzero()[:, 0].tolist() == list(range(50, 50 + reach))


@pytest.mark.parametrize("length", [1, 3, 20])
def test_chunks_and_steps_hear_what_whole_rows_hear(length: int) -> None:
    """With a second document at place 5; the chunk ends there, inside, or before it."""
    torch.manual_seed(0)
    stack = Dilated(4, 5, DILATIONS, 0.0).eval()
    hidden = torch.randn(1, 20, 4)
    begin = torch.where(torch.arange(20) < 5, 0, 5)[None]
    memory = torch.full((1, sum(DILATIONS), 4), 7.0)  # of others, who were here before
    with torch.no_grad():
        wanted = stack(hidden, Whole(DILATIONS, begin), None)
        found = [stack(hidden[:, :length], Entering(DILATIONS, memory[0], 0, begin[:, :length]), None)]
        for place in range(length, 20):
            past = Stepping(DILATIONS, memory, torch.tensor([place]), begin[:, place])
            found.append(stack(hidden[:, place : place + 1], past, None))
            past.keep(torch.tensor([True]))
    torch.testing.assert_close(torch.cat(found, 1), wanted, atol=1e-6, rtol=1e-5)


def test_levels_are_the_eight_bits_that_the_sampler_gives_back() -> None:
    every = torch.arange(LEVELS)
    data = (every / 127.5 - 1.0)[None]
    batch = leveled(Batch(data=data, length=torch.tensor([LEVELS]), label=torch.tensor([2])))
    assert batch.data.tolist() == [[LEVELS, *range(LEVELS)]]
    assert batch.length.tolist() == [LEVELS + 1]
    assert batch.source is not None
    assert batch.source.tolist() == [[2]]
    family, networks = small()
    drawn = sample(family, networks, asked([1, 2]), width=2)
    again = leveled(Batch(data=drawn, length=torch.full((2,), SAMPLES))).data[:, 1:]
    torch.testing.assert_close(again / 127.5 - 1.0, drawn, atol=1e-6, rtol=0)
    assert len(again.unique()) > 20


def test_the_chances_of_all_sounds_of_two_samples_sum_to_one() -> None:
    family, networks = small(Shape(data=(2,)))
    levels = torch.arange(LEVELS) / 127.5 - 1.0
    data = torch.cartesian_prod(levels, levels)
    with torch.no_grad():
        nats = family.nats(networks, Batch(data=data, length=torch.full((len(data),), 2)))
    assert float((-nats.double()).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(nats.std()) > 0.1, "not all are equally likely"


def test_nats_are_the_sum_over_the_samples_and_the_loss_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    family, networks = small(window=0)
    batch = sounds(5)
    with torch.no_grad():
        nats = family.nats(networks, batch)
        loss, logged = family.loss("decoder", networks, batch, 0)
        monkeypatch.setattr("components.families.wavenet.PART", 2 * (SAMPLES + 1))
        parted = family.nats(networks, batch)
        logits = networks["decoder"](leveled(batch).data[:, :-1], leveled(batch).source).log_softmax(-1)
    own = -logits.gather(2, leveled(batch).data[:, 1:, None]).sum((1, 2))
    torch.testing.assert_close(nats, own, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(parted, nats, rtol=1e-5, atol=1e-3)
    assert float(loss) == pytest.approx(float(nats.mean()) / SAMPLES, rel=1e-5)
    assert float(logged["bits_per_token"]) == pytest.approx(float(loss) / math.log(2), rel=1e-5)


def test_cached_layers_give_the_logits_of_the_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every sample, by rows that stand at different places, to 1e-5."""
    family, networks = small()
    network = network_of(networks)
    seen: list[tuple[list[int], list[bool], Tensor]] = []
    plain = network.step

    def watched(state: Any, ready: Tensor) -> Tensor:
        logits = plain(state, ready)
        seen.append((state.entered.tolist(), ready.tolist(), logits.clone()))
        return logits

    monkeypatch.setattr(network, "step", watched)
    slots = Slots(family, networks, 3, asked([1]))
    slots.admit([0, 2], asked([4, 5]))
    slots.advance()
    slots.admit([1], asked([6]))
    state = finished(slots)
    tokens = leveled(Batch(data=state.output, length=state.length, label=torch.tensor([1, 0, 2])))
    with torch.no_grad():
        whole = network(tokens.data[:, :-1], tokens.source)
    counts = [0, 0, 0]
    for places, ready, logits in seen:
        for row in range(3):
            if ready[row]:
                counts[row] += 1
                torch.testing.assert_close(logits[row], whole[row, places[row]], atol=1e-5, rtol=1e-5)
    assert counts == [SAMPLES] * 3


def test_a_row_has_its_bits_wherever_and_whenever_it_begins() -> None:
    family, networks = small()
    alone = Slots(family, networks, 4, asked([7]))
    alone.admit([0], asked([7]))
    wanted = finished(alone).output[0].clone()
    slots = Slots(family, networks, 4, asked([7]))
    with torch.inference_mode():
        for value in tensors(slots.state).values():
            if value.is_floating_point():
                value.fill_(float("nan"))
    slots.admit([1], asked([3]))
    slots.advance()
    slots.admit([2], asked([7]))
    slots.advance()
    assert slots.state.length.tolist()[1:3] == [2 * RUN, RUN]
    slots.admit([0], asked([9], temperature=0.5))
    slots.advance()
    assert slots.state.length.tolist()[:3] == [RUN, SAMPLES, 2 * RUN], "a run ends where its row does"
    slots.admit([1], asked([7]))
    state = finished(slots)
    assert torch.equal(state.output[1], wanted)
    assert torch.equal(state.output[2], wanted)
    assert state.step.tolist()[:3] == [SAMPLES] * 3


def test_temperature_is_the_requests_or_the_familys_and_zero_takes_the_likeliest() -> None:
    family, networks = small()
    usual = sample(family, networks, asked([1, 2, 4]), width=3)
    assert torch.equal(sample(family, networks, asked([1, 2, 4], temperature=1.0), width=3), usual)
    low = sample(family, networks, asked([1, 2, 4], temperature=0.5), width=3)
    assert not torch.equal(low, usual)
    other = WaveNet(**WaveNet.small, temperature=0.5)
    assert torch.equal(sample(other, networks, asked([1, 2, 4]), width=3), low)
    greedy = sample(family, networks, asked([1, 2, 4], temperature=0.0), width=3)
    assert torch.equal(greedy[0], greedy[2]), "of one class; no seed decides"
    assert not torch.equal(greedy[0], greedy[1]), "of another class"
    batch = leveled(Batch(data=greedy, length=torch.full((3,), SAMPLES), label=torch.tensor([1, 2, 1])))
    with torch.no_grad():
        best = networks["decoder"](batch.data[:, :-1], batch.source).argmax(2)
    assert (best == batch.data[:, 1:]).float().mean() > 0.99


def test_a_colder_row_does_not_change_the_bits_of_its_neighbours() -> None:
    family, networks = small()
    requests = asked([1, 2, 4])
    requests.options["temperature"] = torch.tensor([1.0, 0.3, 0.0])
    mixed = sample(family, networks, requests, width=3)
    assert torch.equal(mixed[0], sample(family, networks, asked([1, 2, 4]), width=3)[0])
    assert torch.equal(mixed[2], sample(family, networks, asked([1, 2, 4], temperature=0.0), width=3)[2])


def test_windows_are_cut_out_of_rows_their_ends_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    family, networks = small(window=40)
    heard: list[Batch] = []

    def listening(self: WaveNet, name: str, networks: Any, batch: Batch, step: int) -> Any:
        heard.append(batch)
        return torch.zeros(()), {}

    monkeypatch.setattr(Autoregressive, "loss", listening)
    rows = select(sounds(3), torch.zeros(600, dtype=torch.int64))
    torch.manual_seed(0)
    family.loss("decoder", networks, rows, 0)
    (batch,) = heard
    whole = leveled(select(rows, slice(0, 1))).data[0]
    assert batch.data.shape == (600, 41)
    assert batch.length.tolist() == [41] * 600
    every = whole.unfold(0, 41, 1)
    at = (batch.data[:, None] == every).all(2).float().argmax(1)
    assert torch.equal(every[at], batch.data)
    first, last = int((at == 0).sum()), int((at == SAMPLES - 40).sum())
    assert min(first, last) > 600 * 41 / (SAMPLES + 41) * 0.7, "a window that would reach beyond ends there"
    assert len(at.unique()) > 80
    family.loss("decoder", networks, Batch(data=rows.data[:2, :40], length=torch.full((2,), 40)), 0)
    assert heard[1].data.shape == (2, 41), "rows that are no longer stay whole"


def test_a_class_is_heard_by_every_layer() -> None:
    family, networks = small()
    conditions = network_of(networks).conditions(torch.tensor([0, 2]))
    assert conditions is not None
    assert conditions.shape == (2, len(family.dilations), 2 * family.width)
    assert not torch.isclose(conditions[0], conditions[1]).all(1).any()
    batch = sounds(3)
    with torch.no_grad():
        nats = family.nats(networks, batch)
        assert batch.label is not None
        batch.label = batch.label.flip(0)
        other = family.nats(networks, batch)
    assert (nats - other).abs()[[0, 2]].min() > 1e-3
    assert nats[1] == pytest.approx(float(other[1]), rel=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer = 'sgd' is not one of"):
        WaveNet(optimizer="sgd")
    for field, value in {"layers": 17, "stacks": 0, "temperature": 3.0, "window": -1}.items():
        with pytest.raises(ValueError, match=f"{field} = {value} is out of range"):
            WaveNet(**{field: value})
    assert (WaveNet().shardable, WaveNet(optimizer="adamw").shardable) == (False, True)
