"""A family of sound whose output a test can foresee: a tone by class in the middle of its row, silence around it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.artifact import About, Model, load, save
from components.families.family import Batch, Family, Kind, Losses, Networks, Requests, Shape, State, Task
from components.families.sampling import blank, finish
from components.families.vqvae import VQVAE
from components.families.wavenet import WaveNet
from components.modalities.audio import Audio, save_rate
from components.modalities.waveform import compand
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine

RATE, SAMPLES = 8000, 2000
WORDS = ("low", "mid", "high")
TONES = (250.0, 500.0, 1000.0)


@dataclasses.dataclass(kw_only=True)
class Humming(State):
    label: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hum(Family):
    """Its loudness is the seed's, from a half to one."""

    guidance: float = 1.0
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.WAVEFORM})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.LABEL})

    def guided(self, shape: Shape) -> bool:
        return bool(shape.classes)

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"hum": nn.Linear(1, 1)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        label = torch.zeros_like(requests.seed) if requests.label is None else requests.label.clone()
        return Humming(**blank(requests, (SAMPLES,), torch.device("cpu")), label=label)

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Humming)
        time = torch.arange(SAMPLES) / RATE
        tone = torch.tensor(TONES)[state.label.clamp(0, 2)]
        loud = 0.5 + (state.seed % 100) / 200
        sound = loud[:, None] * torch.sin(2 * math.pi * tone[:, None] * time)
        sound[:, : SAMPLES // 4] = sound[:, -SAMPLES // 4 :] = 0
        return finish(state, compand(sound))


def hum(folder: Path, name: str = "hum", words: tuple[str, ...] = WORDS) -> Loaded:
    """A warm model; without `words` it has no classes."""
    folder = folder / name
    folder.mkdir()
    save_rate(folder, RATE)
    family, shape = Hum(), Shape(data=(SAMPLES,), classes=len(words))
    networks = family.networks(shape)
    model = Model(family, networks, shape, about(name, words), "d" * 64, 4, Audio(folder))
    loaded = Loaded(Served(name, 2, folder, 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(shape))
    return loaded


def whistle(folder: Path, name: str = "whistle") -> Loaded:
    """A warm `wavenet` that knows the words and was not trained: soft noise, a tenth of a second of it."""
    torch.manual_seed(0)
    (assets := folder / f"{name}-assets").mkdir()
    save_rate(assets, RATE)
    family, shape = WaveNet(**WaveNet.small), Shape(data=(RATE // 10,), classes=len(WORDS))
    save(folder / name, family, family.networks(shape), shape, about(name, WORDS), assets)
    model = load(folder / name)
    loaded = Loaded(Served(name, 1, folder / name, 1_700_000_000), model, Engine(model, 4))
    loaded.generate(model.modality.warm(shape))
    return loaded


def about(name: str, words: tuple[str, ...]) -> About:
    return About(
        product=name,
        run=f"{name}-hum",
        dataset=name,
        revision="0" * 16,
        licence="CC0",
        source="plucks",
        classes=words,
        modality="audio",
        key="",
        parameters={},
        commit="",
        dirty=False,
        steps=0,
    )


def speaker(folder: Path) -> Path:
    """An artifact of an untrained `vqvae` that knows the words."""
    torch.manual_seed(0)
    assets = folder / "assets"
    assets.mkdir()
    save_rate(assets, RATE)
    family, shape = VQVAE(**VQVAE.small), Shape(data=(400,), classes=len(WORDS))
    save(folder / "notes", family, family.networks(shape), shape, about("notes", WORDS), assets)
    return folder / "notes"
