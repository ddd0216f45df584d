"""A version as a folder that another Genloom can import: its artifact, its evaluation, and where it comes from.

`parcel.json` has the hashes of all files and its own, so that what was altered on the way is noticed; it is no
signature: who can write the folder can write another one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.artifact import load, read_manifest
from components.data.dataset import file_hash
from components.errors import UserError
from components.folders import new_folder
from components.promotion import ledger, revocation
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings, expanded

PARCEL = "parcel.json"
FORMAT = 1


def pack(settings: Settings, version: Version, folder: Path) -> Path:
    """Write `version` to `folder`, which must be new or empty. Raises `UserError`, and `WithdrawnError`."""
    registry = Registry(settings)
    folder = expanded(folder, "The folder").resolve()
    artifact, evaluation = registry.fetch(version), registry.pictures(version)
    with new_folder(folder) as draft:
        shutil.copytree(artifact, draft / "artifact")
        shutil.copytree(evaluation, draft / "evaluation")
        content = {"format": FORMAT, "origin": _origin(version), "files": _hashes(draft)}
        content["hash"] = _hash(content)
        (draft / PARCEL).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    return folder


def unpack(settings: Settings, folder: Path, evaluate: Callable[[str, Path], Path]) -> tuple[Version, bool]:
    """Register what `pack` wrote, or an artifact alone, and whether it is new here; its origin is in the lineage.

    `evaluate`, given the product and the artifact, makes the evaluation of an artifact that comes without one. The
    same artifact twice is one version. Raises `UserError` for what is not whole, and `WithdrawnError`.
    """
    folder = expanded(folder, "The folder").resolve()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; name one that genloom models export wrote.")
    parcel = _read(folder) if (folder / PARCEL).is_file() else None
    artifact = folder if parcel is None else folder / "artifact"
    manifest = read_manifest(artifact)
    revocation.check_digest(settings, str(manifest["about"]["product"]), str(manifest["digest"]))
    load(artifact)  # of a family that is not here, or of other networks, nothing could be served
    product = str(manifest["about"]["product"])
    origin = {
        **({} if parcel is None else dict(parcel["origin"])),
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": ledger.who(),
        "folder": str(folder),
    }
    registry = Registry(settings)
    there = product in registry.products() and any(
        one.digest == manifest["digest"] for one in registry.versions(product)
    )
    run_id = f"import-{manifest['digest'][:12]}"
    with TemporaryDirectory() as place:  # the folder itself may be read-only
        copy = Path(place) / "evaluation"
        shutil.copytree(evaluate(product, artifact) if parcel is None else folder / "evaluation", copy)
        version = registry.register(artifact, copy, run_id, "", origin=origin)
    revocation.check(settings, product, version.number)  # withdrawn just now
    return version, not there


def _read(folder: Path) -> dict[str, Any]:
    """The checked content of `parcel.json`; raises `UserError` if anything is missing, altered or added."""
    path = folder / PARCEL
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"The file {path} cannot be read; export the version again.") from error
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {content.get('format')}; this version reads {FORMAT}.")
    if not all(isinstance(content.get(name), dict) for name in ("files", "origin")):
        raise UserError(f"The file {path} lacks what a parcel says; export the version again.")
    if content.get("hash") != _hash(content):
        raise UserError(f"The file {path} was altered since it was written; export the version again.")
    found, wanted = _hashes(folder), dict(content["files"])
    for name in sorted({*found, *wanted}):
        if not found.get(name) or found[name] != wanted.get(name):
            fault = "is missing" if name not in found else "was altered" if name in wanted else "was added"
            raise UserError(
                f"The file {folder / name} {fault} since {PARCEL} was written; export the version again."
            )
    return content


def _origin(version: Version) -> dict[str, Any]:
    """What the importer will know of where the version comes from; what it was made of there goes with it."""
    return {
        "version": version.name,
        "digest": version.digest,
        "created": version.created,
        "commit": version.commit,
        "run_id": version.run_id,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_by": ledger.who(),
        "before": version.origin,
    }


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file below `folder` but the parcel's own; of what is neither file nor folder, nothing.

    A link to a file counts as the file; one to a folder would bring files along that have no hash.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {
        path.relative_to(folder).as_posix(): file_hash(path) if path.is_file() else ""
        for path in paths
        if path != folder / PARCEL
    }


def _hash(content: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
