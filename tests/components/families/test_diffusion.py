"""Diffusion: EDM's scalings, solvers against a denoiser that is known, guidance, rows side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from components.families.diffusion import SEEN, Denoiser, Diffusion, Given
from components.families.family import NOTHING, Networks, Requests, Shape, select
from components.families.layers.condition import Condition
from components.families.layers.edm import (
    SOLVERS,
    levels,
    loss_weight,
    over,
    sampling_levels,
    scalings,
    training_levels,
)
from components.families.sampling import Slots, sample
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import batch_of, requests_of, stirred

LABELS = Shape(data=(1, 8, 8), classes=3)
FREE = Shape(data=(1, 8, 8))
WORDS = Shape(data=(3, 8, 8), prompt=(6, 20))
CENTRE, DEVIATION = -0.4, 0.3
"""Of the normal data whose denoiser is known."""


def test_without_noise_the_data_pass_and_with_much_of_it_the_network_speaks_alone() -> None:
    skip, out, scale = scalings(torch.tensor([1e-4, 1e4]), 0.5)
    assert skip.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert out.tolist() == pytest.approx([1e-4, 0.5], rel=1e-4)
    assert scale.tolist() == pytest.approx([2.0, 1e-4], rel=1e-4)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_what_a_network_sees_and_what_it_predicts_have_variance_one(sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200_000, generator=generator) * 0.7
    noisy = data + sigma * torch.randn(200_000, generator=generator)
    skip, out, scale = scalings(torch.tensor(sigma), 0.7)
    assert float((scale * noisy).var()) == pytest.approx(1.0, rel=0.02)
    assert float(((data - skip * noisy) / out).var()) == pytest.approx(1.0, rel=0.02)
    assert float(loss_weight(torch.tensor(sigma), 0.7) * out**2) == pytest.approx(1.0)


def test_training_levels_are_log_normal_and_spread_over_each_batch() -> None:
    torch.manual_seed(0)
    drawn = training_levels(1000, -1.2, 1.5, torch.device("cpu")).log()
    assert float(drawn.mean()) == pytest.approx(-1.2, abs=0.01)
    assert float(drawn.std()) == pytest.approx(1.5, rel=0.01)
    assert torch.isfinite(training_levels(1, 0.0, 1.0, torch.device("cpu"))).all()
    parts = torch.special.ndtr((training_levels(8, 0.0, 1.0, torch.device("cpu"))).log())
    assert (parts * 8).long().sort().values.tolist() == list(range(8))
    again = training_levels(8, 0.0, 1.0, torch.device("cpu"))
    assert again.argsort().tolist() != parts.argsort().tolist(), "no row has the same part each time"


def test_sampling_levels_fall_from_the_highest_over_the_lowest_to_nothing() -> None:
    step = torch.arange(6)
    found = sampling_levels(step, torch.full((6,), 5), 0.01, 80.0, 7.0)
    assert found[0] == pytest.approx(80.0)
    assert found[4] == pytest.approx(0.01)
    assert found[5] == 0
    middle = ((80.0 ** (1 / 7) + 0.01 ** (1 / 7)) / 2) ** 7
    assert float(found[2]) == pytest.approx(middle)
    assert sampling_levels(torch.tensor([0]), torch.tensor([1]), 0.01, 80.0, 7.0) == pytest.approx(80.0)


def ideal(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The expected clean value where data are normal."""
    spread, noise = DEVIATION**2, over(sigma, noisy) ** 2
    return (spread * noisy + noise * CENTRE) / (spread + noise)


def solved(sampler: str, steps: int, noisy: Tensor) -> Tensor:
    output, rows = torch.zeros_like(noisy), len(noisy)
    for step in range(steps):
        at = levels(torch.full((rows,), step), torch.full((rows,), steps), 0.002, 80.0, 7.0)
        output, noisy = SOLVERS[sampler](ideal, noisy, output, at)
    assert torch.equal(output, noisy), "the last estimate is the picture"
    return output


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_known_denoiser_leads_to_the_moments_of_its_data(sampler: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(4, 5000, generator=generator, dtype=torch.float64) * 80.0
    found = solved(sampler, 64, noisy)
    assert float(found.mean()) == pytest.approx(CENTRE, abs=0.02)
    assert float(found.std()) == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_solvers_error_falls_with_the_square_of_the_steps(sampler: str) -> None:
    noisy = torch.linspace(-160.0, 160.0, 9, dtype=torch.float64)[:, None]
    share = DEVIATION / (DEVIATION**2 + 80.0**2) ** 0.5
    exact = CENTRE + share * (noisy - CENTRE)
    coarse, fine = (float((solved(sampler, steps, noisy) - exact).abs().max()) for steps in (64, 128))
    assert 3.2 < coarse / fine < 5.0, (coarse, fine)


def drawn(shape: Shape, requests: Requests, **fields: Any) -> Tensor:
    family = Diffusion(**{"width": 32, "depth": 1, "steps": 3, **fields})
    return sample(family, stirred(networks_for(family, shape, seed=0)), requests, width=4)


@pytest.mark.parametrize("shape", [LABELS, WORDS])
def test_guidance_0_is_unconditional_and_1_conditional(shape: Shape) -> None:
    asked = requests_of([3, 4], shape)
    free = Requests(seed=asked.seed)
    plain, conditional = drawn(shape, free), drawn(shape, asked)
    assert not torch.equal(plain, conditional)
    assert torch.equal(drawn(shape, asked, guidance=0.0), plain)
    one = Requests(**{**vars(asked), "options": {"guidance": torch.tensor([1.0, 4.0])}})
    mixed = drawn(shape, one)
    assert torch.equal(mixed[0], conditional[0]), "a guided neighbour changes nothing"
    assert not torch.equal(mixed[1], conditional[1])


@pytest.mark.parametrize("shape", [LABELS, FREE])
def test_a_guide_is_a_smaller_network_that_sees_the_same(shape: Shape) -> None:
    family = Diffusion(width=32, depth=1, steps=3, guide=16)
    networks = stirred(networks_for(family, shape, seed=0))
    assert list(networks) == ["denoiser", "guide"]
    asked = requests_of([3, 4], shape)

    def drawn_by(networks: Networks, guidance: float) -> Tensor:
        options = {"guidance": torch.full((2,), guidance)}
        return sample(family, networks, dataclasses.replace(asked, options=options), width=4)

    alone = drawn_by({"denoiser": networks["guide"]}, 1.0)
    assert torch.equal(drawn_by(networks, 1.0), drawn_by({"denoiser": networks["denoiser"]}, 1.0))
    assert torch.allclose(drawn_by(networks, 0.0), alone, atol=1e-5)
    assert not torch.allclose(drawn_by(networks, 2.0), drawn_by(networks, 1.0), atol=1e-3)


def test_a_guide_learns_beside_the_network_it_guides() -> None:
    family = Diffusion(width=16, depth=1, guide=16)
    trainee = build(family, networks_for(family, LABELS, 0), TrainOptions(), torch.device("cpu"), 1)
    logged = advance(trainee, batch_of(LABELS, 8), 0)
    assert {"loss/denoiser", "loss/guide"} <= set(logged)
    assert float(trainee.networks["guide"].seen) == 1.0


def test_a_guide_that_has_learnt_enough_rests_with_its_average() -> None:
    family = Diffusion(width=16, depth=1, guide=16, guide_steps=2)
    trainee = build(family, networks_for(family, LABELS, 0), TrainOptions(), torch.device("cpu"), 1)
    kept = []
    for step in range(4):
        logged = advance(trainee, batch_of(LABELS, 8), step)
        assert ("loss/guide" in logged) == (step < 2)
        kept.append({name: value.clone() for name, value in trainee.sampled["guide"].state_dict().items()})
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert all(torch.equal(kept[1][name], kept[3][name]) for name in kept[0])


@pytest.mark.parametrize("shape", [LABELS, WORDS])
def test_no_label_and_no_words_are_the_same_as_none(shape: Shape) -> None:
    asked = requests_of([3, 4], shape)
    empty = dataclasses.replace(
        asked,
        label=None if asked.label is None else torch.full_like(asked.label, NOTHING),
        prompt=None if asked.prompt is None else torch.full_like(asked.prompt, NOTHING),
    )
    assert torch.equal(drawn(shape, empty), drawn(shape, Requests(seed=asked.seed)))


def test_words_matter_by_their_order_and_padding_does_not() -> None:
    condition = Condition(32, 0, (6, 20)).eval()
    words = torch.tensor([[3, 4, 5, NOTHING, NOTHING, NOTHING], [5, 4, 3, NOTHING, NOTHING, NOTHING]])
    stirred({"condition": condition})
    with torch.no_grad():
        signal, _ = condition(torch.zeros(2), None, words)
        assert condition.caption is not None
        cut = condition.caption(words[:, :3]).tokens[:, 0]
        whole = condition.caption(words).tokens[:, 0]
    assert not torch.allclose(signal[0], signal[1], atol=1e-3)
    assert torch.allclose(cut, whole, atol=1e-5)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_rows_with_other_steps_and_guidance_beside_them_keep_their_bits(sampler: str) -> None:
    family = Diffusion(width=32, depth=1, sampler=sampler)
    networks = stirred(networks_for(family, LABELS, seed=0))
    options = {"steps": torch.tensor([2, 7, 4, 1]), "guidance": torch.tensor([1.0, 3.0, 0.0, 1.5])}
    every = dataclasses.replace(requests_of([5, 6, 7, 8], LABELS), options=options)
    together = sample(family, networks, every, width=4)
    for row in range(4):
        own = select(every, torch.tensor([row]))
        slots = Slots(family, networks, 4, own)
        slots.admit([3 - row], own)
        for step in range(int(options["steps"][row])):
            assert not bool(slots.state.done[3 - row]), step
            slots.advance()
        assert bool(slots.state.done[3 - row])
        assert torch.equal(slots.state.output[3 - row], together[row])


def test_after_each_step_the_output_is_an_estimate_in_the_range_of_data() -> None:
    family = Diffusion(width=32, depth=1)
    networks = stirred(networks_for(family, LABELS, seed=0))
    state = family.start(networks, requests_of([5], LABELS))
    seen = []
    with torch.no_grad():
        while not bool(state.done):
            state = family.advance(networks, state)
            seen.append(state.output.clone())
            assert float(seen[-1].abs().max()) <= 1.0
    assert len(seen) == family.steps
    assert len({tuple(output.flatten().tolist()) for output in seen}) == len(seen)


@pytest.mark.parametrize("shape", [LABELS, WORDS, Shape(data=(3, 12, 8), source=(4, 12, 8))])
def test_a_transformer_is_trained_and_sampled_as_a_u_net_is(shape: Shape) -> None:
    family = Diffusion(network="dit", width=32, depth=2, patch=4, steps=2)
    networks = stirred(networks_for(family, shape, seed=0))
    loss, _ = family.loss("denoiser", networks, batch_of(shape, 6), 0)
    loss.backward()
    missing = [key for key, weight in networks["denoiser"].named_parameters() if weight.grad is None]
    assert not missing
    output = sample(family, networks, requests_of([1, 2], shape), width=2)
    assert output.shape == (2, *shape.data)
    assert not torch.equal(output[0], output[1])


def test_a_source_is_looked_at() -> None:
    shape = Shape(data=(1, 8, 8), source=(1, 8, 8))
    asked = requests_of([3], shape)
    other = dataclasses.replace(asked, source=-asked.source if asked.source is not None else None)
    assert not torch.equal(drawn(shape, asked), drawn(shape, other))


def test_a_fresh_denoiser_has_a_loss_of_about_one() -> None:
    """Its network says nothing, and the expected square of what it should say is one."""
    family = Diffusion(width=32, depth=1, deviation=0.7)
    networks = networks_for(family, Shape(data=(1, 8, 8)), seed=0)
    batch = batch_of(Shape(data=(1, 8, 8)), 256)
    batch.data = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.7
    torch.manual_seed(0)
    loss, _ = family.loss("denoiser", networks, batch, 0)
    assert float(loss.detach()) == pytest.approx(1.0, rel=0.1)


def test_the_dropped_rows_lose_label_and_words_and_keep_the_source() -> None:
    given = Given(torch.tensor([1, 2]), torch.tensor([[4, 5], [6, 7]]), torch.ones(2, 1, 4, 4))
    left = given.without(torch.tensor([True, False]))
    assert left.label is not None
    assert left.prompt is not None
    assert left.label.tolist() == [NOTHING, 2]
    assert left.prompt.tolist() == [[NOTHING, NOTHING], [6, 7]]
    assert left.source is given.source


def test_what_cannot_be_built_is_refused_in_a_sentence() -> None:
    for name in ("network", "sampler", "optimizer"):
        with pytest.raises(ValueError, match=f"{name} = 'x' is not one of"):
            Diffusion(**{name: "x"})
    with pytest.raises(ValueError, match="width = 40 is not a multiple of 16; take 48"):
        Diffusion(width=40)
    with pytest.raises(ValueError, match=r"guidance = 2 .* which drop = 0 never trains"):
        Diffusion(drop=0.0, guidance=2.0)
    assert not Diffusion(drop=0.0).guided(LABELS)
    with pytest.raises(ValueError, match="30×28 pixels cannot be cut into 4×4"):
        Diffusion().networks(Shape(data=(1, 30, 28)))
    assert isinstance(Diffusion(patch=1).networks(Shape(data=(1, 30, 28)))["denoiser"], Denoiser)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_mean_picture_is_of_all_rows_seen_also_before_this_training(accumulate: int) -> None:
    family = Diffusion(**Diffusion.small)
    networks = networks_for(family, LABELS, seed=0)
    options = TrainOptions(accumulate=accumulate, ema=0.5)
    batches = [batch_of(LABELS, 8, seed) for seed in range(6)]
    for half in (batches[:3], batches[3:]):  # the second training begins at the weights of the first
        trainee = build(family, networks, options, torch.device("cpu"), world=1)
        for step, batch in enumerate(half):
            advance(trainee, batch, step)
    denoiser, averaged = networks["denoiser"], trainee.sampled["denoiser"]
    assert isinstance(denoiser, Denoiser)
    assert isinstance(averaged, Denoiser)
    rows = torch.cat([batch.data for batch in batches])
    assert torch.allclose(denoiser.centre, rows.mean(0), atol=1e-5)
    assert float(denoiser.seen) == 6 * accumulate
    assert 3 * accumulate < float(averaged.seen) <= 6 * accumulate, "the averages know it too"


def test_the_mean_picture_forgets_slowly() -> None:
    denoiser = Diffusion(**Diffusion.small).networks(LABELS)["denoiser"]
    assert isinstance(denoiser, Denoiser)
    denoiser.seen.fill_(1e6)
    denoiser.seen.clamp_(max=SEEN - 1)
    denoiser.follow(torch.ones(2, 1, 8, 8))
    denoiser.follow(torch.ones(2, 1, 8, 8))
    assert float(denoiser.centre.max()) == pytest.approx(2 / SEEN, rel=0.01)
