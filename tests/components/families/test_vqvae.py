"""Vector quantization: gradients, moving averages, dead codes, and codes as a codec."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.families.family import NOTHING, Requests, Shape
from components.families.layers.quantize import Quantizer
from components.families.sampling import Slots, sample, uniform
from components.families.vqvae import VQVAE, CodeState, codec_of, prior_of
from components.train.step import networks_for
from tests.components.families.rows import WAVES, batch_of, requests_of, stirred

SHAPE = Shape(data=(3, 12, 8))


def small(shape: Shape = SHAPE, **fields: Any) -> tuple[VQVAE, dict[str, nn.Module]]:
    """Networks whose codebook has met a batch."""
    family = VQVAE(**{**VQVAE.small, **fields})
    networks = networks_for(family, shape, seed=0)
    for step in range(3):
        family.loss("autoencoder", networks, batch_of(shape, 8, step), step)
    return family, stirred(networks)


def filled(codes: list[list[float]], decay: float = 0.5) -> Quantizer:
    quantizer = Quantizer(len(codes), len(codes[0]), decay)
    quantizer.count.fill_(1.0)
    quantizer.total.copy_(torch.tensor(codes))
    return quantizer


def test_vectors_become_their_nearest_codes_and_gradients_go_straight_through() -> None:
    quantizer = filled([[0.0, 0.0], [1.0, 1.0]]).eval()
    vectors = torch.tensor([[[0.1, 0.2], [0.9, 0.7]]], requires_grad=True)
    codes, chosen, commitment = quantizer(vectors)
    assert chosen.tolist() == [[0, 1]]
    assert torch.allclose(codes, torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    (codes * torch.tensor([1.0, 2.0])).sum().backward()
    assert vectors.grad is not None
    assert torch.allclose(vectors.grad, torch.tensor([[[1.0, 2.0], [1.0, 2.0]]]))
    vectors.grad = None
    commitment.backward()
    pull = 2 * (vectors - codes).detach() / 4
    assert torch.allclose(vectors.grad, pull)
    assert torch.allclose(commitment, torch.tensor((0.01 + 0.04 + 0.01 + 0.09) / 4))


def test_the_codebook_follows_its_vectors_by_moving_averages_in_training_only() -> None:
    quantizer = filled([[0.0, 0.0], [4.0, 4.0]], decay=0.75)
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    quantizer.eval()(vectors)
    assert quantizer.count.tolist() == [1.0, 1.0]
    quantizer.train()(vectors)
    assert torch.allclose(quantizer.count, torch.tensor([0.75 + 0.5, 0.75 + 0.25]))
    assert torch.allclose(quantizer.total, torch.tensor([[0.25, 0.25], [3.0 + 1.25, 3.0 + 1.25]]))
    assert torch.allclose(quantizer.codebook[1], torch.tensor([4.25, 4.25]))
    for _ in range(60):
        quantizer(vectors)
    assert torch.allclose(quantizer.codebook, torch.tensor([[0.5, 0.5], [5.0, 5.0]]), atol=1e-3)


def test_what_ranks_average_is_the_codebook_of_all_their_vectors() -> None:
    """Buffers are averaged over ranks after a step: the quotient is then that of one rank with all rows."""
    whole = filled([[0.0, 0.0], [4.0, 4.0]])
    ranks = [filled([[0.0, 0.0], [4.0, 4.0]]) for _ in range(2)]
    vectors = torch.randn(2, 6, 2) * 3 + 2
    whole(vectors)
    for rank, own in zip(ranks, vectors, strict=True):
        rank(own[None])
    mean = filled([[0.0, 0.0], [4.0, 4.0]])
    mean.count.copy_((ranks[0].count + ranks[1].count) / 2)
    mean.total.copy_((ranks[0].total + ranks[1].total) / 2)
    # a rank counts half as many, so the old codes weigh twice; without them the two agree
    fresh = [(mean.count - 0.5) * 2, (mean.total - 0.5 * torch.tensor([[0.0, 0.0], [4.0, 4.0]])) * 2]
    assert torch.allclose(fresh[0], whole.count - 0.5, atol=1e-5)
    assert torch.allclose(fresh[1], whole.total - 0.5 * torch.tensor([[0.0, 0.0], [4.0, 4.0]]), atol=1e-4)


def test_a_dead_code_begins_anew_at_a_vector_of_the_batch() -> None:
    quantizer = filled([[0.0, 0.0], [900.0, 900.0]], decay=0.9)
    vectors = torch.randn(1, 40, 2)
    for _ in range(200):
        quantizer(vectors)
    assert float(quantizer.codebook.abs().max()) < 5.0
    assert float(quantizer.count.min()) > 1.0
    perplexity, used = quantizer.use()
    assert float(used) == 1.0
    assert 1.2 < float(perplexity) <= 2.0


def test_use_tells_how_many_codes_take_part() -> None:
    quantizer = filled([[0.0], [1.0], [2.0], [3.0]])
    quantizer.count.copy_(torch.tensor([5.0, 5.0, 0.0, 0.0]))
    perplexity, used = quantizer.use()
    assert float(perplexity) == pytest.approx(2.0)
    assert float(used) == 0.5


@pytest.mark.parametrize("shape", [SHAPE, *WAVES.values(), Shape(data=(1, 7, 9)), Shape(data=(50,))])
def test_codes_go_round(shape: Shape) -> None:
    family, networks = small(shape)
    data = batch_of(shape, 4).data
    with torch.no_grad():
        codes = family.codes(networks, data)
        made = family.decode_codes(networks, codes)
    assert codes.dtype is torch.int64
    assert codes.shape == (4, math.prod(-(-side // 4) for side in shape.data[1:] or shape.data))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < family.codebook
    assert made.shape == data.shape
    assert len(codes.unique()) > 1
    other = (codes + 1) % family.codebook
    with torch.no_grad():
        assert not torch.equal(family.decode_codes(networks, other), made)
    assert set(family.code_use(networks)) == {"perplexity", "used"}


def test_places_are_read_row_by_row() -> None:
    """A change of the lower right corner changes the last code and not the first."""
    _, networks = small(Shape(data=(1, 32, 32)), depth=0)
    data = torch.zeros(1, 1, 32, 32)
    changed = data.clone()
    changed[..., 28:, 28:] = 1.0
    with torch.no_grad():
        before, after = (codec_of(networks).vectors(given) for given in (data, changed))
    assert torch.equal(before[0, 0], after[0, 0])
    assert not torch.allclose(before[0, -1], after[0, -1])
    assert torch.equal(before[0, 7], after[0, 7]), "the end of the first row is far from the corner"


def test_the_sampler_draws_each_code_from_the_prior_as_the_whole_row_gives_it() -> None:
    family, networks = small()
    slots = Slots(family, networks, 3, requests_of([1], SHAPE))
    slots.admit([0, 1, 2], requests_of([4, 5, 6], SHAPE))
    while not bool(slots.state.done.all()):
        slots.advance()
    state = slots.state
    assert isinstance(state, CodeState)
    with torch.no_grad():
        mass = prior_of(networks)(state.codes, None).double().softmax(2).cumsum(2)
    for place in range(state.codes.shape[1]):
        chance = uniform(state.seed, torch.full_like(state.seed, place))
        drawn = torch.searchsorted(mass[:, place].contiguous(), chance[:, None])[:, 0]
        assert torch.equal(drawn, state.codes[:, place])
    with torch.no_grad():
        assert torch.allclose(state.output, family.decode_codes(networks, state.codes), atol=1e-6)


def test_the_prior_looks_only_backwards_and_at_the_class() -> None:
    shape = Shape(data=(3, 12, 8), classes=4)
    family, networks = small(shape)
    prior, codes = prior_of(networks), torch.randint(16, (2, 6))
    label = torch.tensor([0, 3])
    changed = codes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 16
    with torch.no_grad():
        before, after = prior(codes, label), prior(changed, label)
        other = prior(codes, label.flip(0))
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)
    assert not torch.allclose(before[:, 0], other[:, 0], atol=1e-3)
    drawn = sample(family, networks, Requests(seed=torch.tensor([7, 7]), label=torch.tensor([0, 1])), width=2)
    assert not torch.equal(drawn[0], drawn[1])


def test_guidance_goes_beyond_the_prior_that_knows_no_class() -> None:
    """Guidance 0 draws as without a class, 1 as with it; a guided row beside others changes none of their bits."""
    shape = Shape(data=(3, 12, 8), classes=4)
    family, networks = small(shape)
    seed, label = torch.arange(6), torch.tensor([0, 1, 2, 3, 0, 1])

    def drawn(guidance: list[float], label: Tensor = label) -> Tensor:
        options = {"guidance": torch.tensor(guidance)}
        return sample(family, networks, Requests(seed=seed, label=label, options=options), width=6)

    usual = sample(family, networks, Requests(seed=seed, label=label), width=6)
    assert torch.equal(drawn([1.0] * 6), usual)
    nothing = drawn([1.0] * 6, torch.full_like(label, NOTHING))
    assert torch.equal(drawn([0.0] * 6), nothing)
    mixed = drawn([1.0, 8.0, 1.0, 0.0, 1.0, 8.0])
    assert torch.equal(mixed[[0, 2, 4]], usual[[0, 2, 4]])
    assert torch.equal(mixed[3], nothing[3])
    assert not torch.equal(mixed[[1, 5]], usual[[1, 5]])
    with pytest.raises(ValueError, match=r"guidance = 2 weighs .* which drop = 0 never trains"):
        VQVAE(drop=0.0, guidance=2.0)
    assert (VQVAE().guided(shape), VQVAE(drop=0.0).guided(shape), VQVAE().guided(SHAPE)) == (
        True,
        False,
        False,
    )


def test_classes_are_dropped_by_chance_in_training_alone() -> None:
    shape = Shape(data=(3, 12, 8), classes=4)
    family, networks = small(shape)
    batch = batch_of(shape, 400)
    assert batch.label is not None
    heard: list[Tensor] = []
    prior = prior_of(networks)
    prior.register_forward_pre_hook(lambda _, given: heard.append(given[1]))
    family.loss("prior", networks, batch, 0)
    family.nats(networks, batch)
    assert 15 < int((heard[0] == NOTHING).sum()) < 80  # of 400, a tenth
    assert torch.equal(heard[0][heard[0] != NOTHING], batch.label[heard[0] != NOTHING])
    assert torch.equal(heard[1], batch.label)


def test_nats_are_those_of_the_picture_given_its_codes_and_of_the_codes() -> None:
    """A prior that knows nothing gives log K a code; the rest is the decoder's."""
    family, networks = small()
    with torch.no_grad():
        prior_of(networks).head.weight.zero_()
        prior_of(networks).head.bias.zero_()
        batch = batch_of(SHAPE, 3)
        nats = family.nats(networks, batch)
        _, logged = family.loss("prior", networks, batch, 0)
        _, own = family.loss("autoencoder", networks, batch, 0)
    assert float(logged["code_nats"]) == pytest.approx(6 * math.log(16), abs=1e-3)
    assert float(nats.mean()) == pytest.approx(float(own["distortion"]) + 6 * math.log(16), rel=1e-4)
