"""The functions that a notebook calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components import api
from components.errors import UserError
from components.families.family import Shape
from components.families.gan import GAN
from tests.components.serving.painter import Painter, mirrors, served


def test_samples_are_those_that_a_server_draws_with_classes_by_their_seeds(tmp_path: Path) -> None:
    loaded = served(tmp_path, "beasts", Painter(), Shape(data=(1, 8, 8), classes=3))
    model = loaded.model
    body = model.modality.warm(model.shape).model_copy(update={"n": 5, "seed": 7})
    expected = loaded.engine.submit(loaded.order(body).requests).result(30)
    assert torch.equal(api.sample(model, 5, seed=7), expected)
    assert torch.equal(api.sample(model, 1, seed=9), expected[2:3])
    loaded.engine.close()


def test_samples_without_classes_are_by_their_seeds(tmp_path: Path) -> None:
    loaded = served(tmp_path, "plain", GAN(latent=4), Shape(data=(1, 8, 8)))
    drawn = api.sample(loaded.model, 3, seed=1)
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(api.sample(loaded.model, 1, seed=2), drawn[1:2])
    loaded.engine.close()


def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path) -> None:
    loaded = mirrors(tmp_path)["noise"]
    with pytest.raises(UserError, match="turns a source into something else"):
        api.sample(loaded.model, 2)
    with pytest.raises(UserError, match="ask for at least 1"):
        api.sample(loaded.model, 0)
