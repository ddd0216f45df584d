"""A registered version of a product, and how the registry's tags write it down."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from components.artifact import WEIGHTS
from components.project import flatten

CHALLENGER, CHAMPION = "challenger", "champion"
NAMED = re.compile(r"[a-z0-9][a-z0-9_-]*/[0-9]+")
"""A version, as the settings of a run name one."""


@dataclass(frozen=True)
class Version:
    """One registered version of a product; it never changes, except for its aliases and its evaluation.

    `digest` is that of the artifact; `evaluation` names the report by the first digits of its hash. `withdrawn` is
    why nobody may use it, or None; `approved` is who approved it. `weights` is the hash of its weights, and `origin`
    says where it was imported from, where these are known.
    """

    product: str
    number: int
    run_id: str
    run: str
    family: str
    key: str
    digest: str
    dataset: str
    revision: str
    commit: str
    dirty: bool
    flow_run: str
    created: str
    parameters: Mapping[str, Any]
    aliases: tuple[str, ...]
    tracking_run: str
    torch: str
    evaluation: str
    weights: str = ""
    origin: Mapping[str, Any] | None = None
    withdrawn: str | None = None
    approved: str | None = None

    @property
    def name(self) -> str:
        """Such as digits/3."""
        return f"{self.product}/{self.number}"


def tags_of(
    manifest: Mapping[str, Any],
    run_id: str,
    tracking_run: str,
    flow_run: str,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What the registry keeps of a version beside its files."""
    about = manifest["about"]
    plain = {name: str(about[name]) for name in ("run", "key", "dataset", "revision", "commit")}
    return plain | {
        "family": manifest["family"],
        "digest": manifest["digest"],
        "torch": manifest["torch"],
        "dirty": "true" if about["dirty"] else "false",
        "parameters": json.dumps(about["parameters"], sort_keys=True),
        "run_id": run_id,
        "tracking_run": tracking_run,
        "flow_run": flow_run,
        "weights": manifest["files"][WEIGHTS],
        **({} if origin is None else {"origin": json.dumps(origin, sort_keys=True)}),
    }


def version_of(
    product: str,
    number: int,
    created: datetime,
    tags: Mapping[str, str],
    aliases: Iterable[str],
    withdrawn: str | None = None,
    approved: str | None = None,
) -> Version:
    """The version whose tags `tags_of` made, with what the ledger says of it."""
    content: dict[str, Any] = {
        item.name: tags[item.name] for item in dataclasses.fields(Version) if item.name in tags
    }
    return Version(
        **content
        | {
            "product": product,
            "number": number,
            "dirty": tags["dirty"] == "true",
            "created": created.isoformat(timespec="seconds"),
            "parameters": json.loads(tags["parameters"]),
            "aliases": tuple(sorted(aliases)),
            "origin": json.loads(tags["origin"]) if "origin" in tags else None,
            "withdrawn": withdrawn,
            "approved": approved,
        }
    )


def parents(version: Version) -> set[str]:
    """The versions that the settings of a training name: what it was started from, or is guided or decoded by.

    None of one that was imported: those names are of another project's registry.
    """
    if version.origin:
        return set()
    leaves = (value for _, value in flatten(version.parameters))
    return {value for value in leaves if isinstance(value, str) and NAMED.fullmatch(value)}
