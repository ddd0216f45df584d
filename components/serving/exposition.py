"""What all replicas of an application tell Prometheus: each leaves its numbers where any of them finds all.

The proxy hands a question to one replica, so one that told of itself only would have counters jump to and fro.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from components import files
from components.serving.metrics import Metrics

log = logging.getLogger(__name__)
PERIOD = 2.0
"""Seconds between two times that a replica leaves its numbers."""
COMMON = frozenset({"genloom_jobs"})
"""What is of the project and no replica's own: who is asked tells it."""
STALE = 10.0
"""Seconds after which the numbers of a replica that leaves no new ones are those of one that has ended."""


@dataclass(frozen=True)
class Member:
    """A replica: the folder that it shares with the others of its application, and its name among them."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        """Where its own numbers are."""
        return self.folder / f"{self.name}.json"


class Exposition:
    """Answers with the numbers of `metrics` and, where there is a `member`, with those of the others of its folder."""

    def __init__(self, metrics: Metrics, member: Member | None = None) -> None:
        self.metrics, self.member = metrics, member
        self._heard = True

    async def text(self) -> bytes:
        """Everything in Prometheus' text format; of several replicas each series names its own as `replica`."""
        await self.metrics.count_jobs()
        if self.member is None:
            return self.metrics.text()
        own = self.metrics.families()  # on the loop, which changes them
        return await asyncio.to_thread(self._together, self.member, own)

    async def keep_leaving(self, over: asyncio.Event) -> None:
        """Leave this replica's numbers again and again until it is `over`; then take them away."""
        if self.member is None:
            return
        while not over.is_set():
            try:
                await asyncio.to_thread(self._leave, self.member, self.metrics.families())
            except Exception:  # whatever it is, the numbers of the next time may be told
                log.exception("this replica's metrics could not be left for the others")
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PERIOD)
        with suppress(OSError):
            self.member.file.unlink()
            self.member.folder.rmdir()  # by the last one

    def _leave(self, member: Member, families: Sequence[Metric]) -> bool:
        """Whether the numbers could be written: without the folder each replica tells of itself."""
        try:
            member.folder.mkdir(parents=True, exist_ok=True)
            files.write(member.file, json.dumps(written(families)))
            _sweep(member)
        except OSError as error:
            if self._heard:
                log.warning("the other replicas do not see this one's metrics: %s", error)
            self._heard = False
        else:
            self._heard = True
        return self._heard

    def _together(self, member: Member, own: Sequence[Metric]) -> bytes:
        known: dict[str, Sequence[Metric]] = {member.name: own}
        if self._leave(member, own):
            others = (path for path in sorted(member.folder.glob("*.json")) if path != member.file)
            known |= {path.stem: read(path) for path in others}
        registry = CollectorRegistry()
        registry.register(Joined(known))
        return generate_latest(registry)


class Joined(Collector):
    """The families of all replicas, each once, with the series of all."""

    def __init__(self, known: Mapping[str, Sequence[Metric]]) -> None:
        self.known = known

    def collect(self) -> Iterator[Metric]:
        """As Prometheus wants it: all series of a family stand together."""
        joined: dict[str, Metric] = {}
        for replica, families in self.known.items():
            for family in families:
                own = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                named = {} if family.name in COMMON else {"replica": replica}
                for sample in family.samples:
                    own.add_sample(sample.name, {**sample.labels, **named}, sample.value)
        yield from joined.values()


def written(families: Sequence[Metric]) -> list[Any]:
    """Those of `families` that are a replica's own, as JSON has them."""
    return [
        [
            one.name,
            one.documentation,
            one.type,
            [[each.name, each.labels, each.value] for each in one.samples],
        ]
        for one in families
        if one.name not in COMMON
    ]


def read(path: Path) -> list[Metric]:
    """What a replica has left; nothing if it is just being taken away, or was written by another release."""
    found = []
    try:
        for name, about, kind, samples in json.loads(path.read_text(encoding="utf-8")):
            family = Metric(name, about, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            found.append(family)
    except (OSError, ValueError, TypeError):
        return []
    return found


def _sweep(member: Member) -> None:
    """Remove what replicas left that were killed: by the clock of the folder, as those of the nodes may differ."""
    now = member.file.stat().st_mtime
    for path in member.folder.glob("*.json"):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > STALE:
                path.unlink()
