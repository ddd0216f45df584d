from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from components.artifact import load, save
from components.evaluation.subject import subject_of
from components.families.family import Batch, Requests, Shape, kind_of, names
from components.families.gan import GAN
from components.families.vae import VAE
from tests.components.families.rows import an_about

SHAPE = Shape(data=(1, 8, 8))


def test_latents_are_those_that_samples_are_drawn_from(tmp_path: Path) -> None:
    family = GAN(latent=5)
    torch.manual_seed(0)
    save(tmp_path / "artifact", family, family.networks(SHAPE), SHAPE, an_about(SHAPE))
    subject = subject_of(load(tmp_path / "artifact"))
    requests = Requests(seed=torch.arange(4))
    latents = subject.latents(requests)
    assert latents is not None
    assert latents.shape == (4, 5)
    given = dataclasses.replace(requests, seed=requests.seed + 9, options={"latent": latents})
    assert torch.equal(subject.sample(given, 4), subject.sample(requests, 4))
    assert subject.encode(torch.zeros(2, 1, 8, 8)) is None
    assert not subject.binarized


def test_a_way_back_has_the_size_of_the_latents(tmp_path: Path) -> None:
    family = VAE(latent=3, width=16)
    save(tmp_path / "artifact", family, family.networks(SHAPE), SHAPE, an_about(SHAPE))
    subject = subject_of(load(tmp_path / "artifact"))
    means = subject.encode(torch.zeros(2, 1, 8, 8))
    assert means is not None
    assert means.shape == (2, 3)
    batch = Batch(data=torch.zeros(2, 1, 8, 8), length=torch.ones(2))
    assert subject.nats(batch) is not None


@pytest.mark.parametrize("name", names())
def test_families_that_can_model_black_and_white_say_what_their_nats_are_of(name: str) -> None:
    kind = kind_of(name)
    if "likelihood" not in {item.name for item in dataclasses.fields(kind)}:
        assert not kind().binarized
        return
    assert [kind(likelihood=value).binarized for value in ("logistic", "bernoulli")] == [False, True]  # type: ignore[call-arg]


def test_a_family_of_codes_says_how_its_book_is_used(tmp_path: Path) -> None:
    for name, family, named in (
        ("codes", kind_of("vqvae")(codebook=8), {"perplexity", "used"}),
        ("none", GAN(latent=5), set()),
    ):
        save(tmp_path / name, family, family.networks(SHAPE), SHAPE, an_about(SHAPE))
        book = subject_of(load(tmp_path / name)).book()
        assert book.keys() == named
        if named:
            assert 1.0 <= book["perplexity"] <= 8.0
            assert 0.0 <= book["used"] <= 1.0
