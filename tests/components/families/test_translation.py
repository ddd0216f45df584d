"""What pix2pix and cyclegan keep beyond the contract: what they start from, sizes, masks, cycles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.families.cyclegan import CycleGAN, Ways, judged
from components.families.family import Batch, Requests, Shape
from components.families.layers.diversity import spread
from components.families.layers.muon import Muon
from components.families.layers.patches import PatchDiscriminator
from components.families.layers.resnet import ResNet
from components.families.layers.restorer import Restorer
from components.families.layers.translator import fitted
from components.families.pix2pix import Pix2Pix
from components.families.sampling import sample
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import evaluated, stirred

GREY = Shape(data=(1, 16, 16), source=(1, 16, 16))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def made(family: Pix2Pix | CycleGAN, shape: Shape) -> dict[str, nn.Module]:
    return networks_for(family, shape, seed=0)


def small(**fields: Any) -> Pix2Pix:
    return Pix2Pix(**{**Pix2Pix.small, **fields})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_fresh_generator_gives_the_source_itself(channels: int) -> None:
    shape = Shape(data=(channels, 12, 8), source=(channels, 12, 8))
    source = pictures(3, channels, 12, 8)
    networks = evaluated(made(small(), shape))
    assert torch.equal(sample(small(), networks, Requests(seed=torch.arange(3), source=source), 2), source)


def test_a_fresh_generator_colours_a_picture_grey() -> None:
    source = pictures(2, 1, 8, 8)
    network = Restorer(1, 3, width=8, blocks=1, levels=2)
    assert torch.equal(network(source), source.expand(2, 3, 8, 8))


def test_what_a_mask_calls_known_is_kept_and_the_hole_is_filled_from_all_around() -> None:
    network = stirred({"it": Restorer(4, 3, width=8, blocks=1, levels=2)})["it"]
    mask = torch.full((1, 1, 16, 16), -1.0)
    mask[:, :, 4:8, 4:8] = 1.0
    picture = pictures(1, 3, 16, 16).masked_fill(mask > 0, 0.0)
    filled = network(torch.cat((picture, mask), 1))
    hole = (mask > 0).expand_as(picture)
    assert torch.equal(filled[~hole], picture[~hole])
    assert filled[hole].abs().min() > 0
    other = picture.clone()
    other[:, :, 12, 12] += 0.5
    assert not torch.equal(network(torch.cat((other, mask), 1))[hole], filled[hole])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (12, 8), (28, 28), (33, 64)])
def test_pictures_of_any_size_keep_it(size: tuple[int, int]) -> None:
    source = pictures(2, 1, *size)
    networks = stirred({"unet": Restorer(1, 1, 8, 1, 3), "resnet": ResNet(1, 1, 8, 1)})
    assert networks["unet"](source).shape == source.shape
    if min(size) >= 7:  # instance norm needs several pixels at a quarter of the size
        assert networks["resnet"](source).shape == source.shape


def test_a_picture_is_continued_by_its_mirror_or_its_last_pixels() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert fitted(row, 4)[0, 0].tolist() == [[1.0, 2.0, 3.0, 3.0]] * 4  # one row has no mirror
    tall = row.expand(1, 1, 8, 3)
    assert fitted(tall, 4)[0, 0, 0].tolist() == [1.0, 2.0, 3.0, 2.0]
    assert fitted(row, 1) is row


def test_a_shifted_source_gives_a_shifted_picture_far_from_the_edges() -> None:
    network = stirred({"it": Restorer(1, 1, 8, 1, 1)})["it"]
    source = pictures(1, 1, 40, 40)
    shift = network.multiple
    assert isinstance(shift, int)
    moved = network(source.roll(shift, dims=3))
    margin = 16
    inside = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    assert torch.allclose(moved[inside], network(source).roll(shift, dims=3)[inside], atol=1e-5)
    assert not torch.allclose(moved[inside], network(source)[inside], atol=1e-2)


def test_without_an_opponent_there_is_no_discriminator_and_the_loss_is_the_distance() -> None:
    shape, source, data = GREY, pictures(4, 1, 16, 16), pictures(4, 1, 16, 16, seed=1)
    batch = Batch(data=data, length=torch.ones(4), source=source)
    for distance, expected in (("l1", (source - data).abs()), ("l2", (source - data).square())):
        family = small(adversarial=0.0, distance=distance)
        networks = made(family, shape)
        assert set(networks) == {"generator"}
        loss, logged = family.loss("generator", networks, batch, 0)
        assert torch.allclose(loss, expected.mean())
        assert logged == {}
    with pytest.raises(ValueError, match=r"distance = 'l3' is not one of"):
        small(distance="l3")


def test_the_discriminator_sees_the_source_and_has_its_say_by_weight() -> None:
    batch = Batch(data=pictures(4, 1, 16, 16), length=torch.ones(4), source=pictures(4, 1, 16, 16, seed=1))
    networks = made(small(), GREY)
    losses = [small(adversarial=weight).loss("generator", networks, batch, 0)[0] for weight in (0.5, 1.0)]
    fake = torch.cat((batch.source, batch.source), 1) if batch.source is not None else batch.data
    judged_fake = nn.functional.softplus(-networks["discriminator"](fake)).mean()
    assert torch.allclose(losses[1] - losses[0], 0.5 * judged_fake, atol=1e-6)
    assert batch.source is not None
    told = small().loss("generator", networks, batch, 0)[1]["spread"]
    assert torch.allclose(told, spread(batch.source, batch.data)), "what is drawn at first is the source"
    before = small().loss("discriminator", networks, batch, 0)[0]
    swapped = Batch(data=batch.data, length=batch.length, source=-batch.data)
    assert not torch.allclose(before, small().loss("discriminator", networks, swapped, 0)[0])


def test_noise_is_learned_away() -> None:
    torch.manual_seed(0)
    family = small(adversarial=0.0, distance="l2", lr=3e-3)
    trainee = build(family, made(family, GREY), TrainOptions(ema=0.0), torch.device("cpu"), world=1)
    for step in range(60):
        level = torch.rand(16, 1, 1, 1) * 2 - 1
        clean = level.expand(16, 1, 16, 16).contiguous()
        batch = Batch(data=clean, length=torch.ones(16), source=clean + 0.2 * torch.randn_like(clean))
        logged = advance(trainee, batch, step)
    assert float(logged["loss/generator"]) < 0.2**2 / 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_makes_the_update_of_a_kernel_orthogonal(layout: torch.memory_format) -> None:
    kernel = nn.Parameter(torch.zeros(4, 3, 3, 3).to(memory_format=layout))
    kernel.grad = pictures(4, 3, 3, 3).to(memory_format=layout)
    Muon([{"params": [kernel]}], lr=1.0, weight_decay=0.0).step()
    stretches = torch.linalg.svdvals(kernel.detach().flatten(1))
    assert stretches.min() > 0.5
    assert stretches.max() < 1.5
    assert float((kernel.detach() * kernel.grad).sum()) < 0


def test_muon_has_the_kernels_of_the_blocks_and_adam_all_else() -> None:
    for kind, expected in (("muon", 2), ("adam", 1)):
        family = small(optimizer=kind)
        networks = made(family, GREY)
        optimizers = family.optimizers("generator", networks["generator"])
        assert len(optimizers) == expected
        own = [weight for found in optimizers for group in found.param_groups for weight in group["params"]]
        assert len(own) == len({id(weight) for weight in own})
        assert len(own) == len(list(networks["generator"].parameters()))
        assert len(family.optimizers("discriminator", networks["discriminator"])) == 1
        assert family.shardable == (kind == "adam")
    with pytest.raises(ValueError, match=r"optimizer = 'sgd' is not one of"):
        small(optimizer="sgd")


def test_patches_are_judged_on_their_own() -> None:
    judge = PatchDiscriminator(1, (256, 256), 8)
    steps = [layer for layer in judge.layers if isinstance(layer, nn.Conv2d)]
    view = 1
    for layer in reversed(steps):
        view = (view - 1) * layer.stride[0] + layer.kernel_size[0]
    assert view == 70
    for side in (4, 8, 28, 64):
        assert PatchDiscriminator(1, (side, side), 8)(pictures(2, 1, side, side)).shape[2] >= 2


class Shift(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.by


@pytest.mark.parametrize(
    ("forth", "back", "cycle", "identity"),
    [(0.0, 0.0, 0.0, 0.0), (0.3, -0.3, 0.0, 0.6), (0.3, 0.1, 0.8, 0.4)],
)
def test_the_terms_of_a_cycle(forth: float, back: float, cycle: float, identity: float) -> None:
    family = CycleGAN(cycle=10.0, identity=5.0)
    networks = {"generators": Ways(Shift(forth), Shift(back)), "discriminators": Ways(Shift(0.0), Shift(0.0))}
    source, data = pictures(2, 1, 8, 8), pictures(2, 1, 8, 8, seed=1)
    batch = Batch(data=data, length=torch.ones(2), source=source)
    loss, logged = family.loss("generators", networks, batch, 0)
    adversarial = (source + forth - 1).square().mean() + (data + back - 1).square().mean()
    assert torch.allclose(logged["adversarial"], adversarial)
    assert float(logged["cycle"]) == pytest.approx(cycle, abs=1e-6)
    assert float(logged["identity"]) == pytest.approx(identity, abs=1e-6)
    assert float(loss) == pytest.approx(float(adversarial) + 10 * cycle + 5 * identity, abs=1e-5)


@pytest.mark.parametrize(("times", "wide"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_a_way_that_makes_all_sources_alike_is_seen(times: float, wide: float) -> None:
    class Towards(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * times

    networks = {"generators": Ways(Towards(), Towards()), "discriminators": Ways(Shift(0.0), Shift(0.0))}
    same = pictures(8, 1, 8, 8)
    batch = Batch(data=same, length=torch.ones(8), source=same)
    _, logged = CycleGAN().loss("discriminators", networks, batch, 0)
    assert float(logged["spread"]) == pytest.approx(wide, abs=1e-3)


def test_a_discriminator_that_tells_apart_has_no_loss() -> None:
    loss, accuracy = judged(Shift(0.0), torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2))
    assert float(loss) == 0.0
    assert float(accuracy) == 1.0
    loss, accuracy = judged(Shift(0.0), torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2))
    assert float(loss) == 1.0
    assert float(accuracy) == 0.0


def test_domains_of_different_channels_have_no_identity() -> None:
    shape = Shape(data=(3, 8, 8), source=(1, 8, 8))
    family = CycleGAN(**CycleGAN.small)
    batch = Batch(data=pictures(2, 3, 8, 8), length=torch.ones(2), source=pictures(2, 1, 8, 8))
    _, logged = family.loss("generators", made(family, shape), batch, 0)
    assert set(logged) == {"adversarial", "cycle"}


def test_cyclegan_refuses_pictures_that_two_halvings_leave_nothing_of_and_draws_the_next_larger() -> None:
    family = CycleGAN(**CycleGAN.small)
    with pytest.raises(ValueError, match="pictures of 4×9 pixels are too small"):
        family.networks(Shape(data=(1, 4, 9), source=(1, 4, 9)))
    shape = Shape(data=(1, 5, 9), source=(1, 5, 9))
    networks = evaluated(made(family, shape))
    asked = Requests(seed=torch.arange(2), source=pictures(2, 1, 5, 9))
    assert sample(family, networks, asked, 2).shape == (2, 1, 5, 9)
