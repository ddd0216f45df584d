"""Networks that are fitted once and kept: one safetensors file each, whose header says as JSON what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from components import files
from components.data.dataset import file_hash

About = Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """What lies in the cache: the weights by name, what is said of them, and the hash of the file."""

    weights: Mapping[str, Tensor]
    about: About
    digest: str


def kept(path: Path, fit: Callable[[], tuple[nn.Module, About]]) -> Kept:
    """What is kept at `path`; fitted and written, atomically and by one process, if it is not there or not whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = _read(path)
        if found is None:
            _write(path, *fit())
            found = _read(path)
    assert found is not None
    return found


def _read(path: Path) -> Kept | None:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        return Kept(load_file(path), about, file_hash(path))
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path, network: nn.Module, about: About) -> None:
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    files.write(path, serialized(weights, metadata={"about": json.dumps(about, sort_keys=True)}))
