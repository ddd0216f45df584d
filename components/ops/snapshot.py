"""What a backup is: contents by their sha256, and a manifest that says which file of the project has which content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from components.errors import UserError

FORMAT = 1
PLACES = ("home", "shared", "project", "tls")
"""What the path of a file in a backup begins with: GENLOOM_HOME, GENLOOM_STORAGE, the project's folder, elsewhere."""
NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
"""The name of a snapshot: when it was made, so that names sort by time."""


@dataclass(frozen=True)
class Part:
    """A part of a project's state; `usual` ones are in a backup unless somebody leaves them out."""

    what: str
    usual: bool = True


PARTS: Mapping[str, Part] = {
    "runs": Part("the trainings without their resume state: settings, progress, samples, reports, models"),
    "pictures": Part("the pictures that the run log keeps"),
    "records": Part("the records of requests"),
    "issued": Part("what was issued with a label, by which files that lost their mark are known again"),
    "evaluations": Part("reports of versions that were measured again"),
    "judges": Part("the fitted features by which models are compared"),
    "studies": Part("searches for settings, without the weights of their trials"),
    "flows": Part("the history of flows and schedules, by Prefect"),
    "checkpoints": Part("the last resume state of each training that is not done", usual=False),
    "access": Part("the access log of servers", usual=False),
    "jobs": Part("bulk jobs with their shards", usual=False),
    "data": Part("prepared data, which DVC can make or fetch again", usual=False),
    "labels": Part("the certificate and the private key that sign labels", usual=False),
    "tls": Part(
        "the certificate and the private key that GENLOOM_TLS_CERT and GENLOOM_TLS_KEY name", usual=False
    ),
}
"""What may be left out or taken in. Run log, registry, versions, ledgers, keys and the project's files always are."""


class Entry(BaseModel):
    """A file: its `path` in the backup, the sha256 and size of its content, its mode, and when it was changed.

    `changed` are the nanoseconds of the file's mtime and ctime; if they and the size are the same the next time, the
    content is.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str
    size: int
    mode: int
    changed: tuple[int, int]

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if len(parts) < 2 or parts[0] not in PLACES or ".." in parts:
            raise ValueError(f"{path} is no place in a project")
        return path

    @field_validator("sha256")
    @classmethod
    def _is_hash(cls, digest: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError("it is no sha256")
        return digest


class Snapshot(BaseModel):
    """The manifest: a project's state at one time; `without` are sentences about what is not in it.

    `root`, `home` and `shared` are where it was, `products` the lines that each ledger had.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    created: str
    genloom: str
    layout: int
    root: str
    home: str
    shared: str
    parts: tuple[str, ...]
    without: tuple[str, ...]
    products: Mapping[str, int]
    files: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """The bytes of all files, each counted."""
        return sum(entry.size for entry in self.files)

    @property
    def objects(self) -> dict[str, int]:
        """The sizes of the contents, by their hashes."""
        return {entry.sha256: entry.size for entry in self.files}


def write_manifest(snapshot: Snapshot) -> bytes:
    """The manifest as it is stored: JSON with the hash of all else in it."""
    content = snapshot.model_dump(mode="json")
    return json.dumps({**content, "digest": _digest(content)}, indent=1, sort_keys=True).encode()


def read_manifest(content: bytes, where: str) -> Snapshot:
    """What `write_manifest` wrote; raises `UserError` for one that was altered, or of another format."""
    try:
        found = dict(json.loads(content))
        digest = found.pop("digest")
        if found["format"] != FORMAT:
            raise UserError(
                f"The backup {where} has the format {found['format']}, and this version reads {FORMAT}; restore it "
                "with the Genloom that made it."
            )
        if digest != _digest(found):
            raise ValueError("its hash is another")
        return Snapshot.model_validate(found)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"The manifest of the backup {where} was altered; take another backup.") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
