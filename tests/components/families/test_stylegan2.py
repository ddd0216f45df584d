"""StyleGAN2: styles, truncation, lazy penalties and adaptive augmentation, beyond the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from components.families.family import Family, Requests, Shape, Task
from components.families.layers import augment, geometry
from components.families.layers.augment import Augment, augmented
from components.families.layers.modulation import (
    GAIN,
    Convolution,
    Linear,
    Modulated,
    Styled,
    blurred,
    deviation,
    doubled,
    halved,
    summed,
)
from components.families.sampling import sample
from components.families.stylegan2 import Discriminator, Generator, StyleGAN2, channels_of
from components.project import TrainOptions
from components.train.step import Trainee, advance, build, networks_for
from tests.components.families.rows import IMAGES, batch_of, evaluated, stirred

GREY = IMAGES[Task.FREE][0]
BY_CLASS = IMAGES[Task.LABEL][0]
SMALL = StyleGAN2(width=8, latent=16, style=32, mapping=2)


def trainee_of(family: Family, shape: Shape = GREY) -> Trainee:
    return build(family, networks_for(family, shape, 0), TrainOptions(clip=0), torch.device("cpu"), world=1)


def generator_of(family: StyleGAN2, shape: Shape) -> Generator:
    network = networks_for(family, shape, 0)["generator"]
    assert isinstance(network, Generator)
    return network


@pytest.mark.parametrize(
    ("data", "sides", "channels"),
    [
        ((1, 28, 28), [(7, 7), (14, 14), (28, 28)], [8, 16, 16]),
        ((3, 12, 8), [(6, 4), (12, 8)], [8, 16]),
        ((3, 45, 30), [(6, 4), (12, 8), (24, 16), (48, 32)], [8, 16, 16, 16]),
        ((3, 64, 64), [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)], [8, 16, 16, 16, 16]),
    ],
)
def test_networks_follow_the_size_of_the_picture(
    data: tuple[int, ...], sides: list[tuple[int, int]], channels: list[int]
) -> None:
    family = StyleGAN2(width=8, widest=16, latent=8, style=16, mapping=1)
    networks = networks_for(family, Shape(data=data), 0)
    generator = networks["generator"]
    assert isinstance(generator, Generator)
    assert generator.sides == sides
    assert channels_of(data, 8, 16) == channels
    picture = generator(torch.randn(2, 8))
    assert picture.shape == (2, *data)
    assert networks["discriminator"](picture).shape == (2,)


def test_the_paper_has_512_channels_at_most() -> None:
    assert channels_of((3, 256, 256), 64, 512) == [64, 128, 256, 512, 512, 512, 512]


@pytest.mark.parametrize("double", [False, True])
def test_demodulation_brings_back_unit_size(double: bool) -> None:
    torch.manual_seed(0)
    layer = Modulated(32, 64, 3, 16, double)
    maps, factor = layer(torch.randn(8, 32, 16, 16), 3.0 * torch.randn(8, 16))
    inner = maps[:, :, 2:-2, 2:-2]
    assert factor is not None
    if double:  # the filter takes away what is not smooth
        assert float((inner * factor).detach().std()) < 0.8
    else:
        assert float((inner * factor).detach().std()) == pytest.approx(1.0, abs=0.05)
        assert float(inner.detach().std()) > 2.0


def test_scaling_the_maps_is_scaling_the_weights_of_each_row() -> None:
    torch.manual_seed(0)
    layer, maps, style = Modulated(4, 6, 3, 5), torch.randn(3, 4, 7, 7), torch.randn(3, 5)
    made, factor = layer(maps, style)
    for row in range(3):
        weight = layer.weight * layer.scale * layer.style(style[row])[:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = nn.functional.conv2d(maps[row : row + 1], weight, padding=1)
        assert torch.allclose(made[row : row + 1] * factor[row], expected, atol=1e-5)


def test_noise_has_no_say_until_its_strength_is_learned() -> None:
    layer = Styled(4, 4, 5)
    maps, style, noise = torch.randn(2, 4, 6, 6), torch.randn(2, 5), torch.randn(2, 1, 6, 6)
    assert torch.equal(layer(maps, style, noise), layer(maps, style, 0 * noise))
    layer.strength.data.fill_(0.5)
    assert not torch.equal(layer(maps, style, noise), layer(maps, style, 0 * noise))


def test_layers_keep_the_size_of_what_goes_through() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 32, 16, 16)
    for layer in (Convolution(32, 64, 3, GAIN), Convolution(32, 64, 1, GAIN)):
        outputs = nn.functional.leaky_relu(layer(inputs)[:, :, 1:-1, 1:-1], 0.2)
        assert float(outputs.detach().square().mean()) == pytest.approx(1.0, abs=0.1)
    slow = Linear(64, 64, rate=0.01, bias=1.0)
    assert float(slow.weight.detach().std()) == pytest.approx(100.0, rel=0.1)
    assert float(slow(torch.zeros(1, 64)).detach().mean()) == pytest.approx(1.0)


def test_resampling_keeps_what_is_even_and_is_its_own_transpose() -> None:
    even = torch.full((1, 2, 8, 6), 0.7)
    assert torch.allclose(doubled(even)[:, :, 2:-2, 2:-2], torch.tensor(0.7))
    assert torch.allclose(halved(even)[:, :, 1:-1, 1:-1], torch.tensor(0.7))
    small, large = torch.randn(1, 1, 4, 3), torch.randn(1, 1, 8, 6)
    assert float((doubled(small) * large).sum()) == pytest.approx(
        4 * float((small * halved(large)).sum()), rel=1e-4
    )


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_the_filter_of_a_gpu_is_that_of_a_cpu(size: tuple[int, int]) -> None:
    """Also in its gradients, of which R1 takes those of the gradients."""
    maps = torch.randn(2, 3, *size, requires_grad=True)
    pairs = [
        (summed(maps, 1, 4.0), blurred(maps, 1, 4.0)),
        (summed(maps, 2, 1.0), blurred(maps, 2)),
        (summed(maps, 1, 1.0, every=2), halved(maps)),
    ]
    for one, other in pairs:
        assert torch.allclose(one, other, atol=1e-5)
        slopes = [
            torch.autograd.grad(each.square().sum(), maps, create_graph=True)[0] for each in (one, other)
        ]
        assert torch.allclose(*slopes, atol=1e-4)
        twice = [torch.autograd.grad(slope.square().sum(), maps)[0] for slope in slopes]
        assert torch.allclose(*twice, rtol=1e-3, atol=1e-3)


def test_the_deviation_of_equal_rows_is_nothing_and_groups_do_not_mix() -> None:
    rows = torch.cat([torch.ones(4, 2, 3, 3), torch.randn(4, 2, 3, 3)])
    channel = deviation(rows)[:, -1]
    assert float(channel[:4].abs().max()) < 1e-3
    assert float(channel[4:].min()) > 0.3
    assert deviation(torch.randn(7, 2, 3, 3)).shape == (7, 3, 3, 3)


def test_truncation_draws_to_the_mean_style() -> None:
    networks = networks_for(SMALL, GREY, 0)
    generator = networks["generator"]
    assert isinstance(generator, Generator)
    generator.mapper.mean.normal_()
    evaluated(networks)
    seed = torch.arange(4)

    def drawn(share: float | None) -> Tensor:
        options = {} if share is None else {"truncation": torch.full((4,), share)}
        return sample(SMALL, networks, Requests(seed=seed, options=options), width=4)

    mean = generator.paint(
        generator.mapper.mean[:, None].expand(-1, generator.places, -1), torch.zeros(1, generator.pixels)
    ).clamp(-1, 1)
    assert torch.allclose(drawn(0.0), mean.detach().expand(4, -1, -1, -1), atol=1e-5)
    assert torch.equal(drawn(1.0), drawn(None))
    assert drawn(0.5).flatten(1).var(0).mean() < drawn(1.0).flatten(1).var(0).mean()
    mixed = Requests(seed=seed, options={"truncation": torch.tensor([1.0, 0.0, 1.0, 0.5])})
    apart = sample(SMALL, networks, mixed, width=4)
    assert torch.equal(apart[2], drawn(1.0)[2])
    assert torch.equal(apart[3], drawn(0.5)[3])
    usual = dataclasses.replace(SMALL, truncation=0.5)
    assert torch.equal(sample(usual, networks, Requests(seed=seed), width=4), drawn(0.5))


def test_a_truncated_class_stays_itself() -> None:
    generator = generator_of(SMALL, BY_CLASS)
    label = torch.tensor([0, 1, 2, 0])
    style = generator.mapper(torch.randn(4, 16), label)
    generator.mapper.follow(style.detach(), label)
    drawn = generator.mapper.truncated(style, label, torch.zeros(4))
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


def test_the_mean_style_is_followed() -> None:
    generator = generator_of(SMALL, BY_CLASS)
    for _ in range(3):
        generator.mapper.follow(torch.ones(4000, 32), torch.zeros(4000, dtype=torch.int64))
    mean = generator.mapper.mean
    assert float(mean[0].min()) == pytest.approx(1.0, abs=0.01)
    assert float(mean[1:].abs().max()) == 0.0


def test_a_given_latent_is_used_and_its_noise_is_of_the_seed() -> None:
    networks = stirred(networks_for(SMALL, GREY, 0))
    latent = torch.randn(1, 16).expand(3, -1)
    seeds = torch.tensor([5, 5, 6])
    drawn = sample(SMALL, networks, Requests(seed=seeds, options={"latent": latent}), width=4)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert float((drawn[0] - drawn[2]).abs().mean()) < 0.5


def test_styles_are_mixed_in_training() -> None:
    family = dataclasses.replace(SMALL, mixing=0.75)
    generator = generator_of(family, GREY)
    torch.manual_seed(0)
    styles = generator.mixed(torch.zeros(1000, 32), None)
    changed = (styles != 0).any(2)
    assert not bool(changed[:, 0].any())
    assert float(changed[:, -1].float().mean()) == pytest.approx(0.75, abs=0.05)
    assert bool((changed[:, 1:] >= changed[:, :-1]).all())


def test_lazy_penalties_come_in_their_steps() -> None:
    trainee = trainee_of(dataclasses.replace(SMALL, r1_every=3, path_every=2))
    logged = [advance(trainee, batch_of(GREY, 4, step), step) for step in range(7)]
    assert [step for step, found in enumerate(logged) if "r1" in found] == [0, 3, 6]
    assert [step for step, found in enumerate(logged) if "path" in found] == [0, 2, 4, 6]
    lengths = [float(found["path_length"]) for found in logged if "path" in found]
    assert 0 < lengths[0] < lengths[1]


def test_a_lazy_penalty_weighs_as_much_as_one_of_every_step() -> None:
    batch, networks = batch_of(GREY, 4), networks_for(SMALL, GREY, 0)

    def of(name: str, key: str, step: int, **changed: float) -> tuple[float, float]:
        torch.manual_seed(3)
        loss, logged = dataclasses.replace(SMALL, **changed).loss(name, networks, batch, step)
        return float(loss.detach()), float(logged.get(key, torch.zeros(())))

    for name, key, weight, every in (
        ("discriminator", "r1", 0.5 * 2.0 * 5, {"r1": 2.0, "r1_every": 5}),
        ("generator", "path", 0.3 * 5, {"path": 0.3, "path_every": 5}),
    ):
        due, penalty = of(name, key, 5, **every)
        free, nothing = of(name, key, 6, **every)
        assert nothing == 0.0
        assert due == pytest.approx(free + weight * penalty, rel=1e-4)


def test_classes_change_the_sample_and_the_judgement() -> None:
    networks = stirred(networks_for(SMALL, BY_CLASS, 0))
    seed = torch.tensor([1, 1, 1])
    drawn = sample(SMALL, networks, Requests(seed=seed, label=torch.tensor([0, 1, 0])), width=4)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    logits = networks["discriminator"](drawn, torch.tensor([0, 1, 2]))
    assert float(logits[0]) != float(logits[2])


def test_a_free_product_passes_over_labels() -> None:
    networks = stirred(networks_for(SMALL, GREY, 0))
    batch = dataclasses.replace(batch_of(GREY, 4), label=torch.tensor([0, 9, 0, 3]))
    for name in networks:
        assert torch.isfinite(SMALL.loss(name, networks, batch, 0)[0])


def test_mode_seeking_can_be_switched_on() -> None:
    networks, batch = networks_for(SMALL, GREY, 0), batch_of(GREY, 4)
    losses = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        losses.append(
            float(dataclasses.replace(SMALL, diversity=weight).loss("generator", networks, batch, 1)[0])
        )
    assert losses[1] > losses[0] + 0.1


@pytest.mark.parametrize("data", [(1, 8, 8), (3, 12, 8)])
def test_augmentation_is_the_identity_at_first_and_never_in_evaluation(data: tuple[int, ...]) -> None:
    layer, pictures = Augment(), batch_of(Shape(data=data), 16).data
    assert torch.equal(layer(pictures), pictures)
    layer.probability.fill_(1.0)
    changed = layer(pictures)
    assert changed.shape == pictures.shape
    assert bool((changed != pictures).flatten(1).any(1).all())
    assert torch.equal(layer.eval()(pictures), pictures)


@pytest.mark.parametrize("data", [(1, 8, 8), (3, 12, 8)])
def test_augmentation_is_differentiable(data: tuple[int, ...]) -> None:
    pictures = batch_of(Shape(data=data), 16).data.requires_grad_()
    augmented(pictures, torch.tensor(0.7)).square().sum().backward()
    assert pictures.grad is not None
    assert torch.isfinite(pictures.grad).all()
    assert bool((pictures.grad != 0).flatten(1).any(1).all())


def test_about_as_many_rows_change_as_the_probability_says() -> None:
    torch.manual_seed(0)
    pictures = batch_of(GREY, 4000).data
    changed = (augmented(pictures, torch.tensor(0.05)) != pictures).flatten(1).any(1)
    # nine changes of one channel, of which two are void in half of the rows and one in a quarter
    assert float(changed.float().mean()) == pytest.approx(1 - 0.95**7 * 0.975**2 * 0.9625, abs=0.05)


def test_a_quarter_turn_and_a_shift_move_pixels_as_they_are() -> None:
    pictures = torch.randn(1, 2, 6, 6)
    turn = geometry.rotation(torch.tensor([torch.pi / 2]))
    assert torch.allclose(geometry.warped(pictures, turn), pictures.rot90(1, (2, 3)), atol=1e-5)
    shift = geometry.shift(torch.tensor([1.0]), torch.tensor([-2.0]))
    moved = geometry.warped(pictures, shift)
    assert torch.allclose(moved[..., 2:, :-1], pictures[..., :-2, 1:], atol=1e-5)


def test_hue_keeps_grey_and_a_single_channel_knows_no_colour() -> None:
    grey = torch.full((1, 3, 4, 4), 0.3)
    turned = augment._recoloured(grey, augment._hue(torch.tensor([1.3])), torch.zeros(1, 1, 1))
    assert torch.allclose(turned, grey, atol=1e-6)
    torch.manual_seed(0)
    matrix, added = augment.colouring(500, 1, torch.tensor(1.0))
    assert matrix.shape == (500, 1, 1)
    assert float((matrix < 0).float().mean()) == pytest.approx(0.5, abs=0.07)
    assert float(added.abs().max()) > 0.0


def test_the_probability_rises_with_overfitting_and_falls_again() -> None:
    layer = Augment(target=0.6, ramp=1000)
    for _ in range(40):
        layer.adjust(torch.ones(10))
    risen = float(layer.probability)
    assert 0.1 < risen < 0.4
    for _ in range(60):
        layer.adjust(torch.tensor([1.0, -1.0]).repeat(5))
    assert float(layer.probability) < risen
    for _ in range(200):
        layer.adjust(torch.ones(10))
    assert float(layer.probability) == pytest.approx(0.8)  # not 1, where nobody could tell a change from none
    for _ in range(200):
        layer.adjust(-torch.ones(10))
    assert float(layer.probability) == 0.0


def test_a_target_of_one_never_augments() -> None:
    layer = Augment(target=1.0, ramp=10)
    for _ in range(20):
        layer.adjust(torch.ones(10))
    assert float(layer.probability) == 0.0


def test_a_discriminator_that_knows_its_rows_by_heart_is_augmented() -> None:
    trainee = trainee_of(dataclasses.replace(SMALL, ramp=500, lr=1e-2, augment=0.3))
    discriminator = trainee.networks["discriminator"]
    assert isinstance(discriminator, Discriminator)
    batch = batch_of(GREY, 8)
    for step in range(40):
        advance(trainee, batch, step)
    assert float(discriminator.augment.probability) > 0.0
    saved = discriminator.state_dict()
    assert saved["augment.probability"].is_floating_point()
    assert all(buffer.is_floating_point() for buffer in discriminator.buffers())
