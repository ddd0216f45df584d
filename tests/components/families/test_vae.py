"""What the variational families promise beyond the contract: likelihoods, bounds, free bits, classes, the flow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.families.attention_vae import AttentionVAE
from components.families.cvae import CVAE
from components.families.family import Batch, Family, Requests, Shape, kind_of, select
from components.families.layers.flow import Flow
from components.families.layers.grid import GridAttention, grid_decoder, grid_encoder
from components.families.layers.likelihood import bernoulli, discretized_logistic
from components.families.sampling import sample
from components.families.vae import VAE, autoencoder
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import batch_of, evaluated, stirred

SHAPE = Shape(data=(1, 8, 8))
LABELLED = Shape(data=(1, 8, 8), classes=3)
SMALL: dict[str, Any] = {"latent": 4, "width": 32, "depth": 1}


def binarized(**fields: Any) -> tuple[VAE, dict[str, nn.Module]]:
    family = VAE(likelihood="bernoulli", **{**SMALL, **fields})
    return family, stirred(networks_for(family, SHAPE, seed=0))


def silenced(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def test_bernoulli_nats_of_a_model_that_knows_nothing_are_a_bit_a_pixel() -> None:
    family, networks = binarized()
    silenced(networks["autoencoder"])  # the posterior is the prior and every pixel is white at even chances
    nats = family.nats(networks, batch_of(SHAPE, 5))
    assert torch.allclose(nats, torch.full((5,), 64 * math.log(2)))
    tighter = family.importance_nats(networks, batch_of(SHAPE, 5), 3)
    assert torch.allclose(tighter, nats, atol=1e-4)


def test_bernoulli_is_the_chance_of_black_and_white_and_of_a_grey_the_mean_of_both() -> None:
    slopes = torch.tensor([-3.0, 0.0, 0.4, 2.0])
    white = 0.5 * (slopes.tanh() + 1.0)
    assert torch.allclose(bernoulli(torch.ones(4), slopes), -white.log(), atol=1e-5)
    assert torch.allclose(bernoulli(-torch.ones(4), slopes), -(1.0 - white).log(), atol=1e-5)
    grey = bernoulli(torch.full((4,), 0.2), slopes)
    assert torch.allclose(grey, -(0.6 * white.log() + 0.4 * (1.0 - white).log()), atol=1e-5)


def test_logistic_masses_of_all_levels_sum_to_one() -> None:
    levels = torch.linspace(-1, 1, 256)
    surprise = discretized_logistic(levels, torch.tensor(0.3), torch.tensor(-2.0))
    assert abs(float((-surprise).exp().sum()) - 1.0) < 1e-4


def test_black_and_white_are_drawn_anew_by_the_chance_that_a_pixel_is_white() -> None:
    family, _ = binarized()
    data = torch.tensor([-1.0, -0.5, 0.5, 1.0]).repeat(4000, 1)
    seen = family._observed(data)
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(seen.mean(0), data[0], atol=0.06)
    assert not torch.equal(seen, family._observed(data))


def test_a_sample_of_a_black_and_white_model_shows_the_chances() -> None:
    family, networks = binarized()
    latent = torch.randn(2, 4)
    shown = sample(family, networks, Requests(seed=torch.tensor([0, 1]), options={"latent": latent}), width=2)
    with torch.no_grad():
        assert torch.allclose(shown, autoencoder(networks).slopes(latent).tanh(), atol=1e-6)
    assert len(shown.unique()) > 2


@pytest.mark.parametrize("flow", [0, 2])
@pytest.mark.parametrize("likelihood", ["logistic", "bernoulli"])
def test_more_draws_make_the_bound_tighter(flow: int, likelihood: str) -> None:
    family = VAE(likelihood=likelihood, flow=flow, **SMALL)
    networks = stirred(networks_for(family, SHAPE, seed=0))
    batch, means = black_and_white(200), []
    torch.manual_seed(0)
    with torch.no_grad():
        means.append(float(torch.stack([family.nats(networks, batch) for _ in range(5)]).mean()))
        for draws in (2, 8, 64):
            means.append(float(family.importance_nats(networks, batch, draws).mean()))
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] > 0.05


def black_and_white(rows: int) -> Batch:
    batch = batch_of(SHAPE, rows)
    batch.data = batch.data.sign()
    return batch


def test_draws_in_pieces_are_the_same_bound_as_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    family, batch = VAE(likelihood="bernoulli", **SMALL), black_and_white(50)
    networks = evaluated(networks_for(family, SHAPE, seed=0))
    torch.manual_seed(0)
    with torch.no_grad():
        whole = family.importance_nats(networks, batch, 400)
        found = []
        for piece in (7 * 50 * 64, 64 * 20, 1):  # seven draws of all rows; one of a part of them; of one row
            monkeypatch.setattr("components.families.vae.PIECE", piece)
            found.append(family.importance_nats(networks, batch, 400))
    # a piece that is lost, or weighed by its own number of draws, is an error of log 2 or more
    for pieces in found:
        assert pieces.shape == (50,)
        assert abs(float(whole.median() - pieces.median())) < 0.3


def test_no_more_values_are_computed_at_once_however_large_the_pictures_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("components.families.vae.PIECE", 1000)
    family, shape = VAE(**SMALL), Shape(data=(1, 16, 16))
    networks = evaluated(networks_for(family, shape, seed=0))
    sizes: list[int] = []
    autoencoder(networks).decoder.register_forward_hook(lambda *seen: sizes.append(seen[2].numel()))
    with torch.no_grad():
        family.importance_nats(networks, batch_of(shape, 5), 4)
    assert max(sizes) <= 1000
    assert sum(sizes) == 5 * 4 * 256


def test_the_bound_is_the_exact_likelihood_where_the_posterior_is_exact() -> None:
    """With a decoder that ignores z the prior is the posterior, and any number of draws gives −log p(x)."""
    family, networks = binarized()
    network = autoencoder(networks)
    silenced(network.encoder)
    with torch.no_grad():
        network.decoder[0].weight.zero_()  # type: ignore[index, union-attr, operator]
    batch = black_and_white(6)
    with torch.no_grad():
        exact = network.surprise(batch.data, network.slopes(torch.zeros(6, 4)))
        for draws in (1, 7):
            assert torch.allclose(family.importance_nats(networks, batch, draws), exact, atol=1e-3)


def test_free_bits_cost_what_they_give_and_no_more() -> None:
    batch = black_and_white(16)
    _, networks = binarized()
    losses = []
    for free in (0.0, 0.5, 50.0):
        torch.manual_seed(3)
        family = VAE(likelihood="bernoulli", free_bits=free, **SMALL)
        losses.append(family.loss("autoencoder", networks, batch, 0))
    divergence = float(losses[0][1]["divergence"])
    paid = [float(loss.detach()) * 64 - float(logged["distortion"]) for loss, logged in losses]
    assert abs(paid[0] - divergence) < 1e-3
    assert paid[1] > 4 * 0.5 - 1e-3
    assert abs(paid[2] - 4 * 50.0) < 1e-2
    assert family.private == frozenset(), "rows of a batch are compared"
    assert VAE().private == {"autoencoder"}


def test_latents_below_their_free_bits_are_not_pressed() -> None:
    _, networks = binarized()
    family, network = VAE(likelihood="bernoulli", free_bits=50.0, **SMALL), autoencoder(networks)
    silenced(network.decoder)
    loss, _ = family.loss("autoencoder", networks, black_and_white(8), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(float(weight.grad.abs().max()) == 0.0 for weight in given(network.encoder))


def given(network: nn.Module) -> list[Any]:
    return [weight for weight in network.parameters() if weight.grad is not None]


def test_beta_rises_over_its_warmup() -> None:
    _, networks = binarized()
    family, paid = VAE(likelihood="bernoulli", beta=2.0, beta_warmup=9, **SMALL), []
    for step in (0, 4, 9, 500):
        torch.manual_seed(0)
        loss, logged = family.loss("autoencoder", networks, black_and_white(8), step)
        paid.append((float(loss.detach()) * 64 - float(logged["distortion"])) / float(logged["divergence"]))
    assert paid == pytest.approx([0.2, 1.0, 2.0, 2.0], abs=1e-3)


def test_a_flow_keeps_the_mass_that_it_moves() -> None:
    """The determinant that it tells is that of its Jacobian."""
    torch.manual_seed(0)
    flow = Flow(5, 12, 3)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.7)
    context, latent = torch.randn(1, 12), torch.randn(1, 5)

    def moved(inputs: Tensor) -> Tensor:
        outputs: Tensor = flow(inputs[None], torch.zeros(1, 5), context)[0]
        return outputs[0]

    jacobian = torch.autograd.functional.jacobian(moved, latent[0])  # type: ignore[no-untyped-call]
    told = flow(latent, torch.zeros(1, 5), context)[1].sum()
    assert torch.allclose(jacobian.det().abs().log(), told, atol=1e-4)
    assert (jacobian != 0).sum() > 15, "after three steps every latent sees others"


def test_the_posterior_behind_a_flow_still_has_mass_one() -> None:
    """E[p(z)/q(z)] under q is the mass of p, which is one."""
    _, networks = binarized(flow=2, latent=2)
    network = autoencoder(networks)
    torch.manual_seed(0)
    with torch.no_grad():
        wide = torch.tensor([[0.3, -0.2, 2.0, 2.0]])  # wider than the prior, so that no weight is large
        features = torch.cat((wide, torch.randn(1, 16)), dim=1).repeat(100_000, 1)
        assert float(network.explain(features).log_ratio.exp().mean()) == pytest.approx(1.0, abs=0.05)


def test_the_log_ratio_is_the_divergence_on_average() -> None:
    _, networks = binarized()
    network = autoencoder(networks)
    torch.manual_seed(0)
    with torch.no_grad():
        features = network.features(black_and_white(2).data).repeat(20_000, 1)
        explained = network.explain(features)
    ratio = -explained.log_ratio.view(-1, 2).mean(0)
    assert torch.allclose(ratio, explained.divergence.sum(1)[:2], atol=0.05)


@pytest.mark.parametrize("data", [(1, 28, 28), (3, 13, 6)])
def test_convolutions_take_any_sides(data: tuple[int, int, int]) -> None:
    flat = torch.randn(2, math.prod(data))
    assert grid_encoder(data, 7, 32, 1, attention=True)(flat).shape == (2, 7)
    assert grid_decoder(7, data, 32, 1, attention=True)(torch.randn(2, 7)).shape == flat.shape


def test_an_old_artifact_has_the_names_that_the_default_has() -> None:
    names = set(networks_for(VAE(), SHAPE, seed=0)["autoencoder"].state_dict())
    assert {"log_scale", "encoder.0.weight", "encoder.1.inner.weight", "decoder.3.bias"} <= names


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"network": "transformer"}, "network = 'transformer' is not one of perceptron, convolution"),
        ({"likelihood": "normal"}, "likelihood = 'normal' is not one of logistic, bernoulli"),
        ({"free_bits": -1.0}, "free_bits"),
    ],
)
def test_what_it_cannot_be_is_refused(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        VAE(**fields)
    with pytest.raises(ValueError, match="attention needs the grid"):
        kind_of("attention_vae")(network="perceptron")


def taught() -> tuple[Family, dict[str, nn.Module], Batch]:
    """A conditional model of three pictures, one a class: left, right and lower half white."""
    data = torch.full((3, 1, 8, 8), -0.9)
    data[0, 0, :, :4], data[1, 0, :, 4:], data[2, 0, 4:] = 0.9, 0.9, 0.9
    label = torch.arange(48) % 3
    batch = Batch(data=data[label], length=torch.ones(48, dtype=torch.int64), label=label)
    family = CVAE(beta=8.0, **SMALL)
    networks = networks_for(family, LABELLED, seed=0)
    trainee = build(family, networks, TrainOptions(ema=0.0), torch.device("cpu"), world=1)
    torch.manual_seed(0)
    for step in range(300):
        advance(trainee, batch, step)
    return family, evaluated(networks), select(batch, slice(0, 3))


def test_a_conditional_model_makes_the_class_that_is_asked_and_finds_that_of_a_picture() -> None:
    family, networks, three = taught()
    seeds = torch.arange(12)
    label = seeds % 3
    drawn = sample(family, networks, Requests(seed=seeds, label=label), width=12)
    alike = (drawn.sign() == three.data[label].sign()).flatten(1).float().mean(1)
    assert float(alike.mean()) > 0.9
    latent = family.encode(networks, three.data)
    assert latent is not None
    assert three.label is not None
    again = Requests(seed=seeds[:3], label=three.label, options={"latent": latent})
    assert float((sample(family, networks, again, width=3) - three.data).abs().max()) < 0.3
    with torch.no_grad():
        network = autoencoder(networks)
        told, other = (
            network.features(three.data, label)[:, :4] for label in (three.label, three.label.roll(1))
        )
    assert torch.allclose(latent, told)
    assert not torch.allclose(latent, other)


def test_a_conditional_bound_depends_on_the_class() -> None:
    family, networks, three = taught()
    right = family.importance_nats(networks, three, 8)
    three.label = torch.tensor([1, 2, 0])
    wrong = family.importance_nats(networks, three, 8)
    assert right is not None
    assert wrong is not None
    assert (wrong > right + 3).all()


def test_attention_lets_every_place_of_the_grid_look_at_all_places() -> None:
    """By hand: softmax of scaled products, for each head of 16 numbers, added to what came in."""
    torch.manual_seed(0)
    layer = GridAttention(32)
    grid = torch.randn(2, 32, 3, 5)
    nn.init.zeros_(layer.out.bias)
    assert torch.equal(layer(grid), grid), "it begins as the identity"
    nn.init.normal_(layer.out.weight)
    queries, keys, values = layer.qkv(layer.norm(grid)).flatten(2).chunk(3, 1)
    heads = []
    for part in (slice(0, 16), slice(16, 32)):
        chances = (queries[:, part].mT @ keys[:, part] / 4).softmax(2)
        heads.append(values[:, part] @ chances.mT)
    expected = grid + layer.out(torch.cat(heads, 1).view_as(grid))
    torch.testing.assert_close(layer(grid), expected)
    moved = grid.clone()
    moved[:, :, 2, 4] += 1
    assert (layer(moved) - layer(grid))[:, :, 0, 0].abs().min() > 0, "the far corner is seen"


@pytest.mark.parametrize(("kind", "there"), [(AttentionVAE, True), (VAE, False)])
def test_the_attention_vae_has_it_in_encoder_and_decoder(kind: type[VAE], there: bool) -> None:
    networks = kind(width=32, depth=2, latent=4, network="convolution").networks(Shape(data=(1, 12, 12)))
    names = [
        name for name, part in networks["autoencoder"].named_modules() if isinstance(part, GridAttention)
    ]
    assert {name.split(".")[0] for name in names} == ({"encoder", "decoder"} if there else set())
