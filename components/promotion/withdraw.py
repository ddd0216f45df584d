"""Withdrawing a version for good: a line in the ledger, which every server follows and every door asks.

One line takes a version from everywhere at one stroke, and gives the product back to the champion before it; what is
written elsewhere (aliases and tags in MLflow) follows, now or at the next command if this one is killed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import FailedError, UserError
from components.promotion import ledger, revocation
from components.promotion.ledger import Event, Standing
from components.promotion.mirror import KEPT
from components.promotion.promote import entry_of, record, settle
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings
from components.train.runs import read_runs


@dataclass(frozen=True)
class Withdrawn:
    """What became of one version: `changed` unless it was so already; the champion's number before and after.

    `why` is what the ledger says, which is an earlier reason where nothing was changed. The weights of one that is
    `gone` were purged.
    """

    name: str
    changed: bool
    why: str
    before: int | None
    champion: int | None
    gone: bool


def withdraw(
    settings: Settings, version: Version, why: str, data: str = "", purge: bool = False
) -> Withdrawn:
    """Let nobody use `version` from now on, because of `why`, or of the dataset's revision `data`.

    With `purge` its weights are deleted from the registry, its training and this machine's copies; hashes, figures
    and lineage stay. Safe to repeat. Raises `UserError`.
    """
    if not (why := _phrase(why)):
        raise UserError(f"To withdraw {version.name}, say why: --reason “…”.")
    registry = Registry(settings)
    with _held(registry, version) as standing:
        before, known = standing.champion, standing.revoked.get(version.number)
        if known is None or (data and known.data != data):  # the data are withdrawn by their own line
            _record(registry, "revoke", version, standing, why, data)
        if purge and version.number not in standing.purged:
            _record(registry, "purge", version, _present(registry, version), why)
        after = _present(registry, version)
    if purge:
        _purge(registry, version)
    said, gone = why if known is None else known.why, version.number in after.purged
    return Withdrawn(version.name, known is None, said, before, after.champion, gone)


def restore(settings: Settings, version: Version, why: str, by_data: bool = False) -> Withdrawn:
    """Let `version` be used again; it must be promoted to be champion. Safe to repeat.

    Of one whose weights were purged only the withdrawal of its data is lifted, which `by_data` asks for. Raises
    `UserError` if nothing can be.
    """
    if not (why := _phrase(why)):
        raise UserError(f"To lift the withdrawal of {version.name}, say why: --reason “…”.")
    registry = Registry(settings)
    with _held(registry, version) as standing:
        gone = version.number in standing.purged
        if gone and not by_data:
            raise UserError(
                f"The weights of {version.name} were purged, so it cannot be used again; train another version with "
                "genloom retrain."
            )
        known = standing.revoked.get(version.number)
        changed = known is not None and (not gone or bool(known.data))
        if known is not None and changed:
            _record(registry, "restore", version, standing, why, known.data)
        return Withdrawn(version.name, changed, why, standing.champion, standing.champion, gone)


def _phrase(why: str) -> str:
    """A reason as part of a sentence: one line, without a full stop."""
    return " ".join(why.split()).rstrip(".")


def approve(settings: Settings, version: Version, by: str, why: str = "") -> bool:
    """Put on record that `by` approves `version`; False if they have done so before. Raises `UserError`."""
    if not by.strip():
        raise UserError(f"Say who approves {version.name}: --by NAME.")
    registry = Registry(settings)
    with _held(registry, version) as standing:
        if (line := standing.revoked.get(version.number)) is not None:
            raise revocation.refusal(line, standing)
        known = standing.approved.get(version.number)
        if known is not None and known.by == by.strip():
            return False
        _record(registry, "approve", version, standing, why, by=by.strip())
        return True


@contextmanager
def _held(registry: Registry, version: Version) -> Iterator[Standing]:
    """What the product's ledger adds up to, with nobody registering or promoting meanwhile."""
    settings, product = registry.settings, version.product
    with ledger.locked(settings, f"{product}-register"), ledger.locked(settings, product):
        yield ledger.standing(settle(registry, product))


def _present(registry: Registry, version: Version) -> Standing:
    return revocation.standing_of(registry.settings, version.product)


def _record(
    registry: Registry,
    event: Event,
    version: Version,
    standing: Standing,
    why: str,
    data: str = "",
    by: str = "",
) -> None:
    entry = entry_of(event, version, standing.champion, _reasons(event, version, standing, data, by), why)
    record(registry, dataclasses.replace(entry, data=data, by=by))


def _reasons(event: Event, version: Version, standing: Standing, data: str, by: str) -> tuple[str, ...]:
    """What follows from the line, in sentences."""
    match event:
        case "revoke":
            made = (f"It was trained on {data}.",) if data else ()
            if standing.champion != version.number:
                return made
            left = [number for number, _ in standing.champions if number != version.number]
            after = (
                f"{version.product}/{left[-1]} is champion again." if left else "There is no champion now."
            )
            return (*made, after)
        case "purge":
            return ("Its weights are deleted; its hashes, its figures and its lineage stay.",)
        case "restore":
            return (
                ("Its weights are gone; its data may be used again.",)
                if version.number in standing.purged
                else ()
            )
        case "approve":
            return (f"{by} approved it.",)
    return ()


def _purge(registry: Registry, version: Version) -> None:
    """Delete the weights and what was drawn with them, wherever this machine sees them."""
    registry.purge(version)
    settings = registry.settings
    starts = settings.shared / "cache" / "starts" / version.digest
    runs = [
        record.folder for record in read_runs(settings) if record.key == version.key
    ]  # also made once more
    parts = [run / part for run in runs for part in ("artifact", "checkpoints", "samples")]
    for folder in (registry.copy_of(version), starts, *parts):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():  # who purges must know what is left
            raise FailedError(f"{folder} cannot be deleted; mend its permissions and repeat the command.")
    kept = settings.home / "reports" / version.product
    again = settings.shared / "evaluations" / version.product / str(version.number)
    measured = [run / "evaluation" for run in runs]
    for folder in (*measured, again, *kept.glob(f"{version.number}-*")):
        _keep(folder)


def _keep(folder: Path) -> None:
    """Delete the pictures of an evaluation, not its figures."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in KEPT:
            path.unlink(missing_ok=True)
