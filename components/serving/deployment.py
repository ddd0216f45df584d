"""Making a server hold what a file declares, and saying what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from components import cluster
from components.promotion import revocation
from components.serving import client, server
from components.serving.declared import ApplicationRow, check_room
from components.settings import Settings, cluster_address, writable_home
from components.terms import Terms

if TYPE_CHECKING:
    from components.promotion.registry import Registry
    from components.promotion.version import Version
    from components.serving.app import State
    from components.serving.applications import Application
    from components.serving.catalog import Served


@dataclass(frozen=True)
class Applied:
    """What was done with the applications, by name; `url` is the server's."""

    url: str
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def resolve(registry: Registry, rows: Mapping[str, ApplicationRow]) -> dict[str, list[Version]]:
    """The immutable versions that the rows name, by application. Raises `UserError` for one that is not there."""
    return {
        name: [registry.usable(product, str(which)) for product, which in row.models.items()]
        for name, row in rows.items()
    }


def apply(
    settings: Settings, rows: Mapping[str, ApplicationRow], where: str, terms: Mapping[str, Terms]
) -> Applied:
    """Make the server hold exactly the applications of `rows`; those that need no change are left alone.

    `terms` are those of the products by name.

    They are changed one after the other, each without a gap, and what the rows do not name is taken away at the
    end. One that does not come up raises `FailedError`: what it was to replace stays, and nothing is taken away.
    """
    url = server.url_to(settings)
    wanted = _applications(settings, rows, terms)
    cluster.connect(settings)
    from components.serving import app

    local = not cluster_address()
    if local:  # another cluster may grow
        check_room(rows, cluster.capacity(), where)
    with FileLock(writable_home(settings) / "serve" / "deploy.lock"):
        if not local:
            app.open_proxy(settings.host, settings.port, settings)
        return _settled(url, wanted, settings)


def _settled(url: str, wanted: list[Application], settings: Settings) -> Applied:
    from components.serving import app

    held, states = {one.path: one for one in app.applications()}, app.states()
    changed = []
    for one in wanted:
        before = held.pop(one.path, None)
        if before is None or not one.same(before) or not states[one.path].well:
            app.put(one, settings)
            changed.append(one.name)
        elif before.name != one.name:
            app.rename(one, settings)
    if held:
        app.withdraw(settings, list(held))
    kept = tuple(one.name for one in wanted if one.name not in changed)
    return Applied(url, tuple(changed), kept, tuple(one.name for one in held.values()))


def _applications(
    settings: Settings, rows: Mapping[str, ApplicationRow], terms: Mapping[str, Terms]
) -> list[Application]:
    """The rows with their versions resolved and fetched."""
    from components.promotion.registry import Registry
    from components.serving.applications import Application

    registry = Registry(settings)
    versions = resolve(registry, rows)
    return [
        Application(
            name,
            row.path,
            tuple(_served(registry, row, one, terms[one.product]) for one in versions[name]),
            row.replicas,
            row.cpus,
            row.gpus,
        )
        for name, row in rows.items()
    ]


def _served(registry: Registry, row: ApplicationRow, version: Version, terms: Terms) -> Served:
    from components.serving.catalog import Served

    created = int(datetime.fromisoformat(version.created).timestamp())
    follows = row.models[version.product] == "champion"
    return Served(version.product, version.number, registry.fetch(version), created, follows, terms)


def status(settings: Settings, url: str) -> list[dict[str, Any]]:
    """The applications by path: how many replicas run, of how many, and which versions they serve.

    One that may have no replica is not asked, as that could start one; of it the ledger says what it follows.
    """
    cluster.connect(settings)
    from components.serving import app

    states = app.states()
    return [_described(one, states.get(one.path), url, settings) for one in app.applications()]


def _described(one: Application, state: State | None, url: str, settings: Settings) -> dict[str, Any]:
    own, sleeps = url + one.path.rstrip("/"), one.replicas.min == 0
    given = {served.product: number for served in one.served if (number := _present(served, settings))}
    listed = {} if sleeps else {str(model["id"]): int(model["version"]) for model in client.models(own)}
    return {
        "application": one.name,
        "url": own,
        "status": "gone" if state is None else state.status,
        "replicas": 0 if state is None else state.running,
        "wanted": str(one.replicas),
        "sleeps": sleeps,
        "cpus": one.cpus,
        "gpus": one.gpus,
        "models": given | listed,
    }


def _present(served: Served, settings: Settings) -> int | None:
    """The version that a replica would serve if it were started now; None where it may serve none."""
    standing = revocation.standing_of(settings, served.product)
    if served.follows and standing.champions:
        return standing.champion
    return None if served.version in standing.revoked else served.version
