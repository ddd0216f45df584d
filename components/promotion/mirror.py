"""MLflow's copy of what the ledger says, for those who look there: aliases and tags; and what a purge leaves."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from components.promotion.ledger import Standing
from components.promotion.version import CHALLENGER, CHAMPION
from components.tracking import TAG

KEPT = frozenset({"model.json", "report.json"})
"""What a purged version keeps: what it was, by hashes, and how good it was."""
LONGEST = 500
"""Characters of a reason that a tag keeps; the ledger has all of it."""


def crown(client: MlflowClient, model: RegisteredModel, champion: int | None) -> None:
    """Give the alias of the champion to that version, or to none."""
    _name(client, model, CHAMPION, champion)


def point(
    client: MlflowClient, model: RegisteredModel, found: Iterable[ModelVersion], standing: Standing
) -> None:
    """Make the newest of the versions that was not withdrawn the challenger."""
    numbers = {int(version.version) for version in found} - set(standing.revoked)
    _name(client, model, CHALLENGER, max(numbers, default=None))


def _name(client: MlflowClient, model: RegisteredModel, alias: str, number: int | None) -> None:
    held = model.aliases.get(alias)
    if number is None and held is not None:
        client.delete_registered_model_alias(model.name, alias)
    if number is not None and str(held) != str(number):
        client.set_registered_model_alias(model.name, alias, str(number))


def mark(client: MlflowClient, found: Iterable[ModelVersion], standing: Standing) -> None:
    """Tag the versions that are withdrawn or approved with why and by whom, and no others."""
    for version in found:
        number = int(version.version)
        revoked, approved = standing.revoked.get(number), standing.approved.get(number)
        wanted = {
            f"{TAG}withdrawn": "" if revoked is None else revoked.why[:LONGEST],
            f"{TAG}approved": "" if approved is None else approved.by,
        }
        for tag, value in wanted.items():
            if value and version.tags.get(tag) != value:
                client.set_model_version_tag(version.name, version.version, tag, value)
            elif not value and tag in version.tags:
                client.delete_model_version_tag(version.name, version.version, tag)


def purge(root: str, tracking: str) -> None:
    """Delete all files of a version below the URI `root` but those that are kept. Raises `OSError`."""
    store = get_artifact_repository(root, tracking_uri=tracking)
    waiting: list[str | None] = [None]
    while waiting:
        for item in store.list_artifacts(waiting.pop()):
            if item.is_dir:
                waiting.append(item.path)
            elif item.path.rpartition("/")[2] not in KEPT:
                store.delete_artifacts(item.path)
