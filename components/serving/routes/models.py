"""`GET /v1/models`: what is served, as OpenAI lists it, with the version and its origin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from components.artifact import Model
from components.errors import UserError, WithdrawnError, unknown
from components.modalities.audio import Audio
from components.modalities.binning import LEAST_CONTEXT
from components.modalities.corruption import Corruption
from components.modalities.drawing import options_of
from components.modalities.editing import encodes
from components.modalities.image import Image
from components.modalities.molecule import Molecule
from components.modalities.music import Music
from components.modalities.series import Series
from components.modalities.text import Text
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.answers import ModelList, ModelObject, also
from components.serving.routes.errors import UnknownModelError

SPEAK = "/v1/audio/speech"
"""Where a model of sound speaks the names of its classes."""


def router(catalog: Catalog) -> APIRouter:
    """The routes of the models in `catalog`."""
    routes = APIRouter()

    def told(loaded: Loaded) -> dict[str, Any]:
        return {**describe(loaded), "canary": canary_of(catalog, loaded.served.product)}

    @routes.get("/v1/models", response_model=None, responses=also(ModelList, 200))
    async def list_models() -> dict[str, Any]:
        """What is served."""
        return {"object": "list", "data": [told(loaded) for loaded in catalog.loaded.values()]}

    @routes.get("/v1/models/{name}", response_model=None, responses=also(ModelObject, 200))
    async def show_model(name: str) -> dict[str, Any]:
        """One model."""
        return told(find(catalog, name))

    return routes


def canary_of(catalog: Catalog, product: str) -> dict[str, Any] | None:
    """The version that answers a share of the product's requests, if one does."""
    trial = catalog.trials.get(product)
    if trial is None or not trial.canary:
        return None
    return {"version": trial.loaded.served.version, "share": trial.criteria.share}


def find(catalog: Catalog, name: str | None, modality: str | None = None, route: str | None = None) -> Loaded:
    """The model that a request names; without a name, the only one of the modality, or that answers at `route`.

    Raises `UnknownModelError`, `WithdrawnError` where nothing answers for what was withdrawn, and `UserError` where
    the model is of another modality than the route.
    """
    known = catalog.loaded
    if name is None and not known and catalog.gone:
        name = next(iter(catalog.gone))
    if name is not None and name in catalog.gone:
        raise WithdrawnError(catalog.gone[name].why)
    if name is None:
        kin = {
            own: one for own, one in known.items() if modality in (None, one.model.about.modality)
        } or known
        fitting = {own: one for own, one in kin.items() if route in routes_of(one)} or kin
        if len(fitting) != 1:
            raise UnknownModelError(f"Set “model” to one of the models that are served: {', '.join(known)}.")
        name = next(iter(fitting))
    if name not in known:
        raise UnknownModelError(str(unknown("model", name, known)))
    found = known[name]
    if modality not in (None, found.model.about.modality):
        made, where = found.model.modality.makes, " or ".join(routes_of(found))
        raise UserError(f"The model “{name}” makes {made}; ask it at {where}.")
    return found


def routes_of(loaded: Loaded) -> list[str]:
    """The routes that a model answers at; a chat needs a template, or a model of pairs."""
    model, modality = loaded.model, loaded.model.modality
    if isinstance(modality, Molecule):
        return ["/v1/generations"]
    if isinstance(modality, Audio):
        return [*([SPEAK] if model.shape.classes else []), "/v1/generations"]
    if isinstance(modality, Music | Series):
        return ["/v1/generations"]
    if not isinstance(modality, Text):
        if model.shape.source is not None:
            return ["/v1/images/edits"]
        return ["/v1/images/generations", *(["/v1/images/variations"] if encodes(model.family) else [])]
    chats = modality.tokenizer.template is not None or model.shape.source is not None
    return ["/v1/completions", *(["/v1/chat/completions"] if chats else [])]


def headers(loaded: Loaded, seed: int) -> dict[str, str]:
    """What is needed to generate the same again, bit for bit, and that a model made it."""
    return {
        "x-genloom-model": loaded.served.product,
        "x-genloom-version": str(loaded.served.version),
        "x-genloom-width": str(loaded.engine.width),
        "x-genloom-seed": str(seed),
        **({} if loaded.marker is None else loaded.marker.headers),
    }


def field_of(loaded: Loaded, contents: Sequence[str] | None = None) -> bytes:
    """What marks a JSON answer, as its last field, in the place that OpenAI's clients pass over; or nothing.

    `contents` are the hashes of texts in it, which have no place for marks of their own.
    """
    if loaded.marker is None:
        return b""
    told = loaded.marker.field_json
    if contents is not None:
        told = json.dumps(loaded.marker.told(contents), separators=(",", ":")).encode()
    return b',"genloom":%b' % told


def describe(loaded: Loaded) -> dict[str, Any]:
    """OpenAI's model object; the fields from `version` on are ours."""
    model, served = loaded.model, loaded.served
    return {
        "id": served.product,
        "object": "model",
        "created": served.created,
        "owned_by": "genloom",
        "version": served.version,
        "follows": served.follows,
        "family": type(model.family).__module__.rpartition(".")[2],
        "modality": model.about.modality,
        "shape": list(model.shape.data),
        **_asked(model),
        "routes": routes_of(loaded),
        "dataset": model.about.dataset,
        "licence": model.about.licence,
        "run": model.about.run,
        "digest": model.digest,
        "width": loaded.engine.width,
        "threads": loaded.engine.threads,
        "device": loaded.engine.device,
        "records": served.terms.records,
        "filtered": served.terms.filters,
        "labels": served.terms.labels,
        "visible": served.terms.visible,
        "terms": served.terms.digest,
    }


def _asked(model: Model) -> dict[str, Any]:
    """What can be asked of a model, as its modality puts it."""
    if isinstance(model.modality, Image):
        return pictured(model)
    if isinstance(model.modality, Music):
        return composing(model.modality)
    if isinstance(model.modality, Series):
        return forecasting(model)
    if isinstance(model.modality, Molecule):
        return {
            "task": "prompt",
            "classes": list(model.modality.bands.names),
            "bands": model.modality.bands.by,
        }
    return sounding(model) if isinstance(model.modality, Audio) else {}


def composing(modality: Music) -> dict[str, Any]:
    """What can be asked of a model of music: its voices, the steps of a quarter and of a bar, its pitches."""
    notation = modality.notation
    return {
        "task": "prompt",
        "notation": notation.kind,
        "voices": [asdict(voice) for voice in notation.voices],
        "steps": notation.steps,
        "bar": notation.bar,
        "pitches": [notation.lowest, notation.highest],
    }


def forecasting(model: Model) -> dict[str, Any]:
    """What can be asked of a model of series: its channels, and the steps that it learned and can do at most."""
    assert isinstance(model.modality, Series)
    binning = model.modality.binning
    return {
        "channels": binning.names,
        "context": binning.context,
        "horizon": binning.horizon,
        "longest_horizon": binning.window - LEAST_CONTEXT,
        "season": binning.season,
    }


def sounding(model: Model) -> dict[str, Any]:
    """What can be asked of a model of sound: its classes, the options of sampling; `rate` is in samples a second."""
    assert isinstance(model.modality, Audio)
    return {
        "task": "label" if model.shape.classes else "free",
        "classes": list(model.about.classes) if model.shape.classes else [],
        "options": options_of(model.family, model.shape),
        "rate": model.modality.rate,
    }


def pictured(model: Model) -> dict[str, Any]:
    """What can be asked of a model of pictures: its task, its classes, the options of sampling with their defaults.

    `source` says what is wrong with the pictures that it mends: noise, mask, shrink, grey; or pairs, unpaired.
    """
    shape, modality = model.shape, model.modality
    assert isinstance(modality, Image)
    asked = {"source": shape.source, "prompt": shape.prompt, "label": shape.classes}
    corruption = modality.conditions.corruption or Corruption("pairs")
    return {
        "task": next((task for task, there in asked.items() if there), "free"),
        "classes": list(model.about.classes) if shape.classes else [],
        "options": options_of(model.family, shape),
        **({"source": asdict(corruption)} if shape.source else {}),
    }
