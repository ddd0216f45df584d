"""Prepared digits, their judge, and a small model that knows a little, shared by the tests of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from components.artifact import About, save
from components.data.dataset import Batches, Dataset, Position, open_dataset
from components.evaluation import by_prompt, captions
from components.evaluation import judge as judges
from components.evaluation.evaluate import one_thread
from components.evaluation.judge import Features, features_for
from components.families.vae import VAE

Train = Callable[[Path, int], Path]


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """One thread: on tensors this small, more of them only wait for each other."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Judges of coloured shapes need fewer steps than those of real pictures."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(judges, "FEWEST_STEPS", 120)
        patch.setattr(captions, "FEWEST_STEPS", 120)
        patch.setattr(by_prompt, "LEARNED", 60)
        yield


@pytest.fixture(scope="session")
def digits(template: Path) -> Dataset:
    return open_dataset(template / "data" / "prepared" / "digits")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation") / "cache"


@pytest.fixture(scope="session")
def judge(digits: Dataset, cache: Path) -> Features:
    with one_thread():
        return features_for(digits, cache, lambda sentence: None)


@pytest.fixture(scope="session")
def train(digits: Dataset) -> Train:
    """Train a VAE for some steps in plain torch and save it in a folder."""

    def call(folder: Path, steps: int) -> Path:
        family = VAE(latent=8, width=64, lr=2e-3)
        with torch.random.fork_rng(devices=[]), one_thread():
            torch.manual_seed(0)
            networks = family.networks(digits.shape)
            (optimizer,) = family.optimizers("autoencoder", networks["autoencoder"])
            stream = Batches(digits, "train", 64, 0).from_position(Position())
            for step, (batch, _) in zip(range(steps), stream, strict=False):
                optimizer.zero_grad()
                family.loss("autoencoder", networks, batch, step)[0].backward()
                optimizer.step()
        save(folder, family, networks, digits.shape, _about(digits))
        return folder

    return call


def _about(digits: Dataset) -> About:
    return About(
        product="digits",
        run="digits-vae",
        dataset=digits.name,
        revision=digits.revision,
        licence=digits.licence,
        source=digits.source,
        classes=digits.classes,
        modality=digits.modality,
        key="0" * 64,
        parameters={},
        commit="",
        dirty=False,
        steps=1,
    )


@pytest.fixture(scope="session")
def artifact(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("model") / "artifact", 500)
