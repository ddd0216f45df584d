"""A model on disk: `model.json` and `networks.safetensors`, with hashes that are checked before loading."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from components import files
from components.data.dataset import file_hash
from components.errors import UserError, unknown
from components.families.family import Family, Networks, Requests, Shape, kind_of, names
from components.families.layers.packed import pack
from components.families.sampling import sample
from components.modalities.modality import Maker, Modality, modality_of
from components.modalities.modality import kind_of as kind_of_modality

FORMAT = 1
WEIGHTS = "networks.safetensors"
WIDTH = 16
"""Rows that a model computes at once unless its manifest says otherwise; part of what makes content repeat."""


@dataclass(frozen=True)
class About:
    """What an artifact says of its origin: `key` names the training, `parameters` are all its settings."""

    product: str
    run: str
    dataset: str
    revision: str
    licence: str
    source: str
    classes: Sequence[str]
    modality: str
    key: str
    parameters: Mapping[str, Any]
    commit: str
    dirty: bool
    steps: int


@dataclass(frozen=True)
class Model:
    """A loaded artifact, ready to generate; `digest` is the hash of its manifest, which holds all others.

    `modality` reads requests for this model and writes its content. Of a `packed` one large linear layers generate
    faster on a CPU, and do nothing else.
    """

    family: Family
    networks: Networks
    shape: Shape
    about: About
    digest: str
    width: int
    modality: Modality
    packed: bool = False

    @cached_property
    def maker(self) -> Maker:
        """What a request is read for."""
        return Maker(self.family, self.networks, self.shape, self.about.classes)

    def sample(self, requests: Requests, width: int | None = None) -> Tensor:
        """Finished outputs [N, …] on the CPU, computed at the model's width unless another is given."""
        return sample(self.family, self.networks, requests, width or self.width)


def save(
    folder: Path, family: Family, networks: Networks, shape: Shape, about: About, assets: Path | None = None
) -> str:
    """Write an artifact to `folder` (replaced whole, atomically) and return its digest.

    `assets` is the folder that holds the modality's files, which are copied into the artifact; of the optional ones
    those that are there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.draft(folder) as draft:
        draft.mkdir()
        return _write(draft, family, networks, shape, about, assets)


def keep_assets(modality: str, folder: Path, kept: Path) -> Path:
    """Copy the modality's files from `folder` to `kept`, unless that is there, and return `kept`."""
    if not kept.is_dir():
        with files.draft(kept) as draft:
            draft.mkdir(parents=True)
            for name in _assets(modality, folder):
                shutil.copyfile(folder / name, draft / name)
    return kept


def _write(
    draft: Path, family: Family, networks: Networks, shape: Shape, about: About, assets: Path | None
) -> str:
    # save_file would make a file that only its owner can read, which a shared folder cannot use
    (draft / WEIGHTS).write_bytes(to_bytes(flatten(networks)))
    names = [WEIGHTS, *_assets(about.modality, assets)]
    for name in names[1:]:
        assert assets is not None, f"a model of {about.modality} needs the folder of its assets"
        shutil.copyfile(assets / name, draft / name)
    manifest = {
        "format": FORMAT,
        "family": type(family).__module__.rpartition(".")[2],
        "hyperparameters": dataclasses.asdict(family),
        "shape": dataclasses.asdict(shape),
        "width": WIDTH,
        "about": dataclasses.asdict(about),
        "torch": torch.__version__,
        "files": {name: file_hash(draft / name) for name in names},
    }
    manifest["digest"] = _digest(manifest)
    (draft / "model.json").write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    return str(manifest["digest"])


def _assets(modality: str, folder: Path | None) -> list[str]:
    """The names of the modality's files that go into an artifact."""
    kind = kind_of_modality(modality)
    there = [name for name in kind.optional if folder is not None and (folder / name).is_file()]
    return [*kind.assets, *there]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked content of `model.json`; raises `UserError` if anything is missing or altered."""
    path = folder / "model.json"
    try:
        manifest: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"The artifact {folder} has no readable model.json; fetch or train it again."
        ) from error
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"The artifact {folder} has format {manifest.get('format')}; this version reads {FORMAT}."
        )
    if manifest.get("digest") != _digest(manifest):
        raise UserError(f"The file {path} was altered since it was written; fetch or train the model again.")
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"The artifact {folder} lacks the file {name}; fetch or train the model again.")
        if file_hash(file) != expected:
            raise UserError(
                f"The file {file} was altered since it was written; fetch or train the model again."
            )
    return manifest


def load(folder: Path, device: str | torch.device = "cpu", packed: bool = True) -> Model:
    """Check the hashes of the artifact in `folder` and load it onto `device`, to generate; raises `UserError`.

    On a CPU large linear layers are `packed`, which changes the last bits of what they give.
    """
    manifest = read_manifest(folder)
    if manifest["family"] not in names():
        raise unknown("family", manifest["family"], names())
    family = kind_of(manifest["family"])(**manifest["hyperparameters"])
    shape = _shape(manifest["shape"])
    networks = family.networks(shape)
    fill(networks, load_file(folder / WEIGHTS))
    for network in networks.values():
        network.eval().requires_grad_(False).to(device)
    laid = [pack(network) for network in networks.values()] if packed else []
    about = About(**manifest["about"])
    modality = modality_of(about.modality, folder)
    modality.check(shape)
    return Model(family, networks, shape, about, manifest["digest"], manifest["width"], modality, any(laid))


def flatten(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """All parameters and buffers as `network.name` → contiguous tensor on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def fill(networks: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Load what `flatten` gave back into networks of the same shapes; raises `UserError` if they differ."""
    for name, network in networks.items():
        prefix = f"{name}."
        own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        try:
            network.load_state_dict(own)
        except RuntimeError as error:
            cause = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
            raise UserError(
                f"The weights do not fit the network “{name}” ({cause}); use the same model: settings."
            ) from error


def _shape(content: Mapping[str, Any]) -> Shape:
    pairs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    return Shape(**pairs)


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
