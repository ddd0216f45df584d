"""Families of pictures whose output a test can foresee: one paints what it is told, one hands back what it got."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from components.artifact import About, Model, save
from components.families.family import Batch, Family, Kind, Losses, Networks, Requests, Shape, State, Task
from components.families.sampling import blank, finish, uniform
from components.modalities.conditions import Conditions, save_conditions
from components.modalities.corruption import Corruption
from components.modalities.image import Image
from components.modalities.views import View
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine

EDIT, VARY = "/v1/images/edits", "/v1/images/variations"

CLASSES = ("cat", "dog", "owl", "yak")


@dataclasses.dataclass(kw_only=True)
class Painting(State):
    steps: Tensor
    guidance: Tensor
    told: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painter(Family):
    """Rows of one level that says how far they are: row 0 the class or the caption's tokens, row 1 the guidance,

    row 2 the share of the steps that are done, the others chance by the seed. `pause` is in seconds a step.
    """

    steps: int = 4
    guidance: float = 1.0
    pause: float = 0.0

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.LABEL, Task.PROMPT})

    def guided(self, shape: Shape) -> bool:
        return bool(shape.classes or shape.prompt)

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"brush": Brush(shape)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        rows = len(requests)
        told = torch.zeros(rows)
        if requests.label is not None:
            told = requests.label / 10
        if requests.prompt is not None:
            told = (requests.prompt.clamp(min=0).sum(1) % 100) / 100
        return Painting(
            **blank(requests, brush(networks).shape.data, torch.device("cpu")),
            steps=requests.options.get("steps", torch.full((rows,), self.steps)).clone(),
            guidance=requests.options.get("guidance", torch.full((rows,), self.guidance)).clone(),
            told=told,
        )

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Painting)
        time.sleep(self.pause)
        running = ~state.done
        state.step += running
        picture = uniform(state.seed, torch.zeros_like(state.step)).float()[:, None, None, None]
        picture = picture.expand_as(state.output).clone()
        picture[:, :, 0] = state.told[:, None, None]
        picture[:, :, 1] = state.guidance[:, None, None] / 10
        picture[:, :, 2] = (state.step / state.steps)[:, None, None]
        state.output[running] = picture[running]
        state.done |= state.step >= state.steps
        return state


class Brush(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape


def brush(networks: Networks) -> Brush:
    found = networks["brush"]
    assert isinstance(found, Brush)
    return found


@dataclasses.dataclass(kw_only=True)
class Seen(State):
    source: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror(Family):
    """Hands the source back; of a hole it says the level `fill`."""

    fill: float = 1.0

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.SOURCE})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"brush": Brush(shape)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        assert requests.source is not None
        fields = blank(requests, brush(networks).shape.data, torch.device("cpu"))
        return Seen(**fields, source=requests.source.clone())

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Seen)
        channels = state.output.shape[1]
        source = state.source[:, :channels]
        if state.source.shape[1] == channels + 1:
            source = torch.where(state.source[:, -1:] > 0, self.fill, source)
        return finish(state, source.expand_as(state.output).clone())


def about(name: str, shape: Shape) -> About:
    classes: Sequence[str] = CLASSES[: shape.classes]
    return About(name, f"{name}-run", name, "0" * 16, "CC0", "made", classes, "image", "", {}, "", False, 0)


def written(folder: Path, family: Family, shape: Shape, conditions: Conditions | None = None) -> Path:
    """An artifact of an untrained model."""
    torch.manual_seed(0)
    assets = folder.with_name(f"{folder.name}-assets")
    assets.mkdir()
    save_conditions(assets, conditions or Conditions())
    save(folder, family, family.networks(shape), shape, about(folder.name, shape), assets)
    return folder


def served(
    folder: Path,
    name: str,
    family: Family,
    shape: Shape,
    conditions: Conditions | None = None,
    width: int = 4,
) -> Loaded:
    """A warm model of `family` with the conditions beside it."""
    folder = folder / name
    folder.mkdir()
    save_conditions(folder, conditions or Conditions())
    networks = family.networks(shape)
    for network in networks.values():
        network.eval().requires_grad_(False)
    modality = Image(folder)
    modality.check(shape)
    model = Model(family, networks, shape, about(name, shape), "d" * 64, width, modality)
    loaded = Loaded(Served(name, 2, folder, 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(shape))
    return loaded


def opened(file: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The levels of a PNG, [H, W] or [H, W, C]."""
    return np.asarray(Pillow.open(io.BytesIO(file)))


def saved(picture: Any, **options: Any) -> bytes:
    """Levels, or a picture of Pillow's, as a file; a PNG unless `format` says otherwise."""
    image = picture if isinstance(picture, Pillow.Image) else Pillow.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, **{"format": "PNG", **options})
    return stream.getvalue()


def level(value: float) -> int:
    """The 8-bit level of a float in [−1, 1]."""
    return round((value + 1) * 127.5)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Any:
    """Smooth colours that are different everywhere."""
    generator = np.random.default_rng(seed)
    rough = Pillow.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = rough.resize((width, height), Pillow.Resampling.BICUBIC)
    return np.asarray(smooth if channels == 3 else smooth.convert("L"))


def masked(height: int, width: int, hole: tuple[slice, slice]) -> bytes:
    levels = np.full((height, width, 4), 255, dtype=np.uint8)
    levels[(*hole, 3)] = 0
    return saved(levels)


def mirrors(root: Path) -> dict[str, Loaded]:
    """Mirrors of 16×16 pixels for each kind of source, and a painter of classes, which takes none."""
    colour, grey = (3, 16, 16), (1, 16, 16)
    cropped, whole = View(crop=16), View()
    kinds = {
        "noise": (Corruption("noise", 25.0), grey, cropped),
        "photos": (Corruption("noise", 25.0), colour, cropped),
        "colour": (Corruption("grey"), colour, cropped),
        "enlarge": (Corruption("shrink", 2.0), colour, cropped),
        "fill": (Corruption("mask", 0.4), colour, cropped),
        "whole": (Corruption("mask", 0.4), colour, whole),
        "style": (Corruption("unpaired"), grey, whole),
    }
    found = {"animals": served(root, "animals", Painter(), Shape(data=grey, classes=3))}
    for name, (corruption, data, view) in kinds.items():
        shape = Shape(data=data, source=corruption.shape(data))
        found[name] = served(root, name, Mirror(), shape, Conditions(corruption, view=view))
    return found
