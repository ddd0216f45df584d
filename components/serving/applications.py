"""What a server holds: applications, each at its own path with its own models, replicas, CPUs and GPUs.

The path is the identity: it is what clients see, so applications that are renamed or change places roll over in
place, without a moment in which nobody has the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from components import files
from components.accelerator import Device
from components.serving.catalog import Served
from components.serving.declared import NAME, Replicas
from components.settings import Settings

ONE = Replicas()


@dataclass(frozen=True)
class Application:
    """One application; `cpus` and `gpus` are what each replica reserves in Ray, of which trainings then have less."""

    name: str
    path: str
    served: tuple[Served, ...]
    replicas: Replicas = ONE
    cpus: float = 0.0
    gpus: float = 0.0

    @property
    def device(self) -> Device:
        """What its replicas compute on: the CPU, whatever else is there, unless each has a GPU or a part of one."""
        return "cuda" if self.gpus else "cpu"

    @property
    def ray_name(self) -> str:
        """What Ray Serve calls it: genloom, or genloom.words for /words."""
        return NAME + self.path.rstrip("/").replace("/", ".")

    def same(self, other: Application | None) -> bool:
        """Whether `other` needs no change to become this; where a champion is followed, replicas do so themselves."""
        return other is not None and _wanted(self) == _wanted(other)


def _wanted(application: Application) -> tuple[object, ...]:
    models = {
        (one.product, None if one.follows else one.version, one.terms.digest) for one in application.served
    }
    return (application.path, models, application.replicas, application.cpus, application.gpus)


APPLICATIONS = TypeAdapter(list[Application])


def remember(settings: Settings, applications: Sequence[Application]) -> None:
    """Write down what is served, so that the project's other commands find it without joining Ray."""
    path = _record(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, APPLICATIONS.dump_json(list(applications), indent=2))


def remembered(settings: Settings) -> list[Application]:
    """What was written down; nothing where that cannot be read."""
    try:
        return APPLICATIONS.validate_json(_record(settings).read_bytes())
    except (OSError, ValidationError):
        return []


def holder(applications: Iterable[Application], product: str) -> Application | None:
    """The first application, by path, that serves `product`."""
    found = [one for one in applications if any(served.product == product for served in one.served)]
    return min(found, key=lambda one: one.path, default=None)


def _record(settings: Settings) -> Path:
    return settings.home / "serve" / "applications.json"
