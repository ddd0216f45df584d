"""A model of music for tests: an untrained `gpt`, whose notation is that of the bundled counterpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from components.artifact import load, save
from components.data.counterpoint import pieces
from components.families.family import Shape
from components.families.gpt import GPT
from components.modalities.notation import Kind, fit
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine
from tests.components.families.rows import an_about

CONTEXT = 200


def songs(folder: Path, name: str = "songs", kind: Kind = "grid") -> Loaded:
    """A warm model of four voices (of `events`, of one instrument)."""
    folder = folder / name
    assets = folder / "assets"
    assets.mkdir(parents=True)
    notation = fit(kind, list(pieces(12)), 1)
    notation.save(assets)
    family = GPT(layers=1, heads=2, width=16)
    shape = Shape(data=(CONTEXT,), vocabulary=notation.vocabulary, prompt=(CONTEXT, notation.vocabulary))
    torch.manual_seed(0)
    about = replace(an_about(shape), modality="music", product=name)
    save(folder / "artifact", family, family.networks(shape), shape, about, assets)
    model = load(folder / "artifact")
    loaded = Loaded(Served(name, 2, folder / "artifact", 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(shape))
    return loaded
