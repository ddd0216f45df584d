"""GANs: what the contract does not say of their schedules, losses, layers and what they watch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from components.families import attention_gan, dcgan
from components.families.attention_gan import AttentionGAN, attended
from components.families.cgan import CGAN
from components.families.dcgan import DCGAN
from components.families.family import Family, Networks, Requests, Shape, Task
from components.families.gan import GAN
from components.families.layers.conditional import ClassNorm, Projection
from components.families.layers.convolution import base, halvings, widths
from components.families.layers.diversity import mode_seeking, spread
from components.families.layers.spectral import SpectralNorm, spectral
from components.families.sampling import sample
from components.families.wgan_gp import WGANGP
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import IMAGES, batch_of, evaluated, stirred

GREY = IMAGES[Task.FREE][0]
BY_CLASS = IMAGES[Task.LABEL][0]
ALL: list[tuple[Family, Shape]] = [
    (GAN(), GREY),
    (DCGAN(width=8), GREY),
    (WGANGP(width=8), GREY),
    (CGAN(width=8), BY_CLASS),
    (AttentionGAN(width=8), BY_CLASS),
]


@pytest.mark.parametrize(
    ("data", "small", "channels"),
    [
        ((1, 28, 28), (7, 7), [8, 16]),
        ((3, 32, 32), (4, 4), [8, 16, 32]),
        ((3, 128, 128), (4, 4), [8, 16, 32, 64, 64]),
        ((3, 12, 8), (6, 4), [8]),
        ((3, 45, 30), (6, 4), [8, 16, 32]),
        ((1, 3, 3), (2, 2), [8]),
    ],
)
def test_networks_follow_the_size_of_the_picture(
    data: tuple[int, ...], small: tuple[int, int], channels: list[int]
) -> None:
    assert base(data) == small
    assert widths(data, 8) == channels
    shape = Shape(data=data, classes=2)
    for family in (DCGAN(width=8), AttentionGAN(width=8)):
        networks = networks_for(family, shape, 0)
        label = (torch.tensor([0, 1]),) if Task.LABEL in family.tasks else ()
        made = networks["generator"](torch.randn(2, family.latent), *label)
        assert made.shape == (2, *data)
        assert networks["discriminator"](made, *label).shape == (2,)


def test_batch_norm_stands_where_the_paper_says() -> None:
    generator, discriminator = (
        [
            type(layer)
            for layer in network.modules()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d)
        ]
        for network in (dcgan.Generator(10, (1, 28, 28), 8), dcgan.Discriminator((1, 28, 28), 8))
    )
    assert generator == [nn.BatchNorm2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.ConvTranspose2d]
    assert discriminator == [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d]
    critic = WGANGP(width=8).networks(Shape(data=(1, 28, 28)))["critic"]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in critic.modules())


def test_weights_begin_small() -> None:
    weights = [
        layer.weight.detach().flatten()
        for network in DCGAN().networks(Shape(data=(1, 28, 28))).values()
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    assert float(torch.cat(weights).std()) == pytest.approx(0.02, rel=0.02)


def test_the_generator_is_due_after_its_critics_steps() -> None:
    family = WGANGP(width=8, critic_steps=3)
    trainee = build(family, networks_for(family, GREY, 0), TrainOptions(), torch.device("cpu"), world=1)
    updated = [
        {
            name
            for name in ("critic", "generator")
            if f"loss/{name}" in advance(trainee, batch_of(GREY, 8, step), step)
        }
        for step in range(6)
    ]
    assert updated == 2 * [{"critic"}, {"critic"}, {"critic", "generator"}]


class Linear(nn.Module):
    """A critic whose slope is `weight` everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, data: Tensor) -> Tensor:
        return data.flatten(1) @ self.weight


def test_the_penalty_of_a_linear_critic() -> None:
    weight = torch.linspace(-1, 1, 64)
    batch, fake = batch_of(GREY, 6), batch_of(GREY, 6, seed=1).data
    loss, logged = WGANGP().discriminator_loss(Linear(weight), batch, fake)
    distance = ((batch.data - fake).flatten(1) @ weight).mean()
    assert float(logged["wasserstein"]) == pytest.approx(distance.item(), rel=1e-5)
    assert float(logged["slope"]) == pytest.approx(float(weight.norm()), rel=1e-5)
    assert loss.item() == pytest.approx(float(10 * (weight.norm() - 1) ** 2 - distance), rel=1e-5)


def test_the_critic_logs_no_accuracy_and_the_others_do() -> None:
    for family, shape in ALL:
        networks = networks_for(family, shape, 0)
        name = next(iter(networks))
        _, logged = family.loss(name, networks, batch_of(shape, 6), 0)
        assert ("accuracy" in logged) == (not isinstance(family, WGANGP))
        assert 0 < float(logged["spread"]) < 10


def test_the_discriminator_learns_on_a_faster_scale() -> None:
    family = AttentionGAN(lr=1e-3, balance=4.0, width=8)
    rates = {
        name: family.optimizers(name, network)[0].param_groups[0]["lr"]
        for name, network in family.networks(BY_CLASS).items()
    }
    assert rates == {"discriminator": 4e-3, "generator": 1e-3}


def test_the_hinge_stops_where_rows_are_well_apart() -> None:
    class Sure(nn.Module):
        def forward(self, data: Tensor, label: Tensor) -> Tensor:
            return data.mean((1, 2, 3)) * 2

    batch = dataclasses.replace(batch_of(BY_CLASS, 4), data=torch.ones(4, 1, 8, 8))
    loss, logged = AttentionGAN().discriminator_loss(Sure(), batch, -torch.ones(4, 1, 8, 8))
    assert float(loss) == 0
    assert float(logged["accuracy"]) == 1
    loss, logged = AttentionGAN().discriminator_loss(Sure(), batch, torch.ones(4, 1, 8, 8))
    assert float(loss) == 3
    assert float(logged["accuracy"]) == 0.5


def test_the_projection_adds_the_classes_share() -> None:
    head = Projection(5, 3)
    features, label = torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    expected = [
        float(head.linear(row) + head.embedding.weight[own] @ row)
        for row, own in zip(features, label.tolist(), strict=True)
    ]
    assert head(features, label).tolist() == pytest.approx(expected, abs=1e-6)


def test_batch_norm_by_class_is_plain_at_first_and_then_the_classes_own() -> None:
    norm, inputs, label = ClassNorm(3, 2), torch.randn(6, 3, 4, 4), torch.tensor([0, 1] * 3)
    torch.testing.assert_close(norm(inputs, label), nn.BatchNorm2d(3)(inputs))
    with torch.no_grad():
        norm.gain.weight[1], norm.bias.weight[1] = 0.0, 5.0
    assert (norm(inputs, label)[1::2] == 5).all()
    assert (norm(inputs, label)[::2] != 5).all()


@pytest.mark.parametrize("family", [CGAN(width=8), AttentionGAN(width=8)])
def test_samples_and_judgements_follow_the_label(family: Family) -> None:
    networks = stirred(networks_for(family, BY_CLASS, 0))
    seed = torch.full((3,), 7)
    drawn = sample(family, networks, Requests(seed=seed, label=torch.tensor([0, 1, 0])), width=3)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)
    logits = networks["discriminator"](drawn, torch.tensor([0, 1, 1]))
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    for module in (nn.Linear(20, 30), nn.Conv2d(3, 8, 4), nn.ConvTranspose2d(3, 8, 4), nn.Embedding(10, 7)):
        matrix = module.weight.detach()
        matrix = matrix.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else matrix
        sigma = torch.linalg.matrix_norm(matrix.flatten(1), 2)
        expected = module.weight.detach() / sigma
        spectral(module)
        for _ in range(100):
            found = module.weight
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_spectral_norm_needs_a_direction_only_and_leaves_it_alone_when_evaluated() -> None:
    norm = SpectralNorm(weight := torch.randn(6, 4), axis=0)
    for _ in range(50):
        norm(weight)
    norm.eval()
    before = norm(weight)
    norm.direction.mul_(0.3)  # as the mean of directions is shorter than they are
    kept = norm.direction.clone()
    torch.testing.assert_close(norm(weight), before)
    assert torch.equal(norm.direction, kept)


@pytest.mark.parametrize(("family", "shape"), ALL)
def test_networks_can_be_made_for_their_shapes_only(family: Family, shape: Shape) -> None:
    with torch.device("meta"):
        networks = family.networks(shape)
    assert all(value.is_meta for network in networks.values() for value in network.state_dict().values())


def test_attention_stands_at_a_middle_resolution_and_starts_as_nothing() -> None:
    assert [attended((3, side, side)) for side in (8, 28, 64, 128)] == [0, 1, 1, 1]
    generator = attention_gan.Generator(10, (3, 128, 128), 8, classes=2)
    assert (halvings((3, 128, 128)), generator.place) == (5, 3)
    inputs = torch.randn(2, 16, 5, 4)
    attention = attention_gan.SelfAttention(16)
    assert torch.equal(attention(inputs), inputs)
    weights = attention.map(inputs)
    assert weights.shape == (2, 20, 6)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 20))


def test_mode_seeking_is_one_over_how_far_samples_follow_their_latents() -> None:
    latent, picture = torch.zeros(3, 5), torch.zeros(3, 1, 4, 4)
    near = mode_seeking(picture, picture + 0.5, latent, latent - 2)
    assert float(near) == pytest.approx(4.0, rel=1e-3)
    assert float(mode_seeking(picture, picture + 1.0, latent, latent - 2)) == pytest.approx(2.0, rel=1e-3)
    assert torch.isfinite(mode_seeking(picture, picture, latent, latent))


@pytest.mark.parametrize(("family", "shape"), ALL)
def test_diversity_is_added_to_the_generators_loss_alone(family: Family, shape: Shape) -> None:
    networks = evaluated(networks_for(family, shape, 0))
    plain, weighed = (dataclasses.replace(family, diversity=weight) for weight in (0.0, 3.0))
    batch = batch_of(shape, 6)
    losses = [_losses(one, networks, batch_of(shape, 6)) for one in (plain, weighed)]
    assert losses[0][0] == losses[1][0]
    torch.manual_seed(0)
    latents = [torch.randn(len(batch), family.latent) for _ in range(2)]  # type: ignore[attr-defined]
    asked = () if batch.label is None else (batch.label,)
    one, other = (networks["generator"](latent, *asked) for latent in latents)
    extra = float(3 * mode_seeking(one, other, *latents))
    assert extra > 1
    assert losses[1][1] - losses[0][1] == pytest.approx(extra, rel=1e-3)


def _losses(family: Family, networks: Networks, batch: object) -> list[float]:
    """The judge's and the generator's losses on the same draws."""
    found = []
    for name in networks:
        torch.manual_seed(0)
        loss, _ = family.loss(name, networks, batch, 0)  # type: ignore[arg-type]
        found.append(float(loss))
    return found


def test_spread_compares_the_samples_distances_with_the_datas() -> None:
    real, fake = torch.randn(2, 64, 1, 8, 8)
    assert float(spread(fake, real)) == pytest.approx(1.0, abs=0.05)
    assert float(spread(0.5 * fake, real)) == pytest.approx(0.5, abs=0.05)
    assert float(spread(fake[:1].expand(64, 1, 8, 8), real)) < 0.01


def test_spread_by_class_sees_classes_that_have_collapsed_each() -> None:
    label = torch.arange(64) % 4
    centres = torch.randn(4, 64) * 10
    real = centres[label] + torch.randn(64, 64)
    assert float(spread(centres[label], real)) > 0.9
    assert float(spread(centres[label], real, label)) < 0.01


def test_spread_takes_all_pairs_where_no_class_has_two_rows() -> None:
    real, each = torch.randn(8, 64), torch.arange(8)
    assert float(spread(real, real, each)) == 1.0
    assert float(spread(real[:1].expand(8, 64), real, each)) < 0.01
    assert float(spread(0.5 * real, real, each)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("family", "shape"), ALL, ids=lambda value: type(value).__name__)
def test_under_autocast_opponents_judge_in_full_precision(family: Family, shape: Shape) -> None:
    batch, networks = batch_of(shape, 16), stirred(networks_for(family, shape, 0))
    for name in networks:
        with torch.autocast("cpu", torch.bfloat16):
            loss, logged = family.loss(name, networks, batch, 0)
        assert loss.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in logged.values())


def test_a_wasserstein_distance_is_as_fine_however_high_the_scores_are() -> None:
    """Only differences of scores enter the loss, so their mean may be anywhere."""
    family, batch = WGANGP(width=8), batch_of(GREY, 32)
    networks = stirred(networks_for(family, GREY, 0))
    critic = networks["critic"]
    assert isinstance(critic, dcgan.Discriminator)
    found = []
    for bias in (0.0, 500.0):
        nn.init.constant_(critic.head.bias, bias)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(float(family.loss("critic", networks, batch, 0)[1]["wasserstein"]))
    assert abs(found[0]) > 1e-3
    assert found[1] == pytest.approx(found[0], abs=1e-4)
