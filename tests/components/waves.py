"""Small series for tests: two waves of one period with a little noise, as a person's CSV, prepared, and learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from components.artifact import About, Model
from components.data.dataset import Batches, Dataset, Position
from components.data.prepare import prepare
from components.families.gpt import GPT
from components.modalities.series import Series
from components.project import Project, open_project
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine
from components.train.schedule import remember

PERIOD, STEPS = 8, 400
ROW = {"source": "series", "path": "waves.csv", "context": 24, "horizon": 8, "season": PERIOD, "bins": 32}


def waves(steps: int = STEPS) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[steps, 2]: a tide around 5, and another of a hundred times its size."""
    time, noise = np.arange(steps), np.random.default_rng(0).normal(0, 0.1, (steps, 2))
    turn = 2 * np.pi * time / PERIOD
    return np.stack([5 + np.sin(turn) + noise[:, 0], 100 * (np.cos(turn) + noise[:, 1])], axis=1)


def written(path: Path, steps: int = STEPS) -> Path:
    """The waves as CSV with a header and hours."""
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(steps) * np.timedelta64(3600, "s")
    lines = [f"{time},{low:.6f},{high:.6f}" for time, (low, high) in zip(times, waves(steps), strict=True)]
    path.write_text("\n".join(["when,low,high", *lines]) + "\n")
    return path


def project_of(root: Path, **row: object) -> Project:
    """A project with the dataset `waves`."""
    root.mkdir(exist_ok=True)
    if not (root / "waves.csv").exists():
        written(root / "waves.csv")
    with (root / "params.yaml").open("w") as stream:
        YAML().dump({"datasets": {"waves": {**ROW, **row}}}, stream)
    return open_project(root)


def prepared(root: Path, **row: object) -> Dataset:
    """The waves as they are prepared."""
    return prepare(project_of(root, **row), "waves", root / "prepared" / "waves")


def learned(dataset: Dataset, steps: int = 150) -> Model:
    """A GPT that has seen the waves for a moment."""
    torch.manual_seed(0)
    family = GPT(layers=1, heads=2, width=32, lr=0.01, muon_lr=0.03)
    networks = family.networks(dataset.shape)
    optimizers = family.optimizers("decoder", networks["decoder"])
    remember(optimizers)
    stream = Batches(dataset, "train", 16, 0).from_position(Position())
    for step in range(steps):
        batch, _ = next(stream)
        for optimizer in optimizers:
            optimizer.zero_grad()
        family.loss("decoder", networks, batch, step)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    networks["decoder"].eval()
    return Model(family, networks, dataset.shape, about(), "d" * 64, 8, Series(dataset.folder))


def served(model: Model, name: str = "waves") -> Loaded:
    """The model as a server has it."""
    folder = model.modality.folder
    assert folder is not None
    loaded = Loaded(Served(name, 2, folder, 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(model.shape))
    return loaded


def about() -> About:
    """What an artifact of it would say."""
    return About(
        product="waves",
        run="waves-gpt",
        dataset="waves",
        revision="0" * 16,
        licence="CC0",
        source="series",
        classes=(),
        modality="series",
        key="",
        parameters={},
        commit="",
        dirty=False,
        steps=0,
    )
