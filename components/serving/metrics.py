"""What a replica tells Prometheus: requests, latencies, errors by model and version, and what its engines do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.promotion.canary import QUANTILES
from components.serving.access_log import AccessLog
from components.serving.catalog import Catalog, Loaded
from components.serving.jobs import Jobs
from components.serving.routes.paths import route_of

log = logging.getLogger(__name__)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The borders of the latencies' buckets."""
GONE = 3600.0
"""Seconds for which the series of a version stay that is not served any more, so that its last numbers are read."""
GONE_BEFORE = "499"
"""The status of a request whose client has left before its answer began, as nginx has it."""
OTHER = "other"
"""The route of a request to a path that is none, so that nobody can make series without end."""


Gauged, Counted = GaugeMetricFamily, CounterMetricFamily
ENGINE: Mapping[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str]] = {
    "rows_waiting": (Gauged, "Rows that have no place yet."),
    "engine_width": (Gauged, "Rows that are computed together."),
    "engine_healthy": (Gauged, "Whether the engine works."),
    "engine_steps": (Counted, "Steps of all rows together."),
    "engine_rows": (
        Counted,
        "Taken rows, summed over steps; by steps times width it is the fill of the batch.",
    ),
    "rows_finished": (Counted, "Generated pictures, texts, and so on."),
    "rows_failed": (Counted, "Rows that ended in an error."),
    "tokens": (Counted, "Tokens in finished rows of text."),
    "withheld": (Counted, "Answers that the product's content filter held back."),
}
"""What is told of each engine."""
TRIED = {
    "answered": "Requests that this side of a trial answered.",
    "failed": "Requests that it did not answer.",
    "dropped": "Requests that a shadow was not asked, as it had others.",
}
"""What is counted of each side of a canary or shadow."""


Labelled = TypeVar("Labelled", Counter, Histogram)
Failed: TypeAlias = Callable[[Request, Exception], ASGIApp]
"""Makes the answer to a request that ended with an error."""


class Series(Generic[Labelled]):
    """The series of `metric` by their labels; to look one up there costs more than to count."""

    def __init__(self, metric: Labelled) -> None:
        self.metric: Labelled = metric
        self._known: dict[tuple[str, ...], Labelled] = {}

    def of(self, labels: tuple[str, ...]) -> Labelled:
        """The series with these labels."""
        found = self._known.get(labels)
        if found is None:
            found = self._known[labels] = self.metric.labels(*labels)
        return found

    def forget(self, model: str, version: str) -> None:
        """Let go of a version's series."""
        self._known.clear()
        self.metric.remove_by_labels({"model": model, "version": version})


class Metrics:
    """The counters of one application; `routes` are the paths, or templates of such, that get series of their own."""

    def __init__(self, catalog: Catalog, routes: frozenset[str], jobs: Jobs | None = None) -> None:
        self.catalog = catalog
        self._plain = routes
        self._templates = {path: compile_path(path)[0] for path in sorted(routes) if "{" in path}
        self._seen: dict[tuple[str, str], float] = {}
        self.registry = CollectorRegistry()
        self.registry.register(Engines(catalog))
        self.registry.register(Tried(catalog))
        self.queued = None if jobs is None else Queued(jobs)
        if self.queued is not None:
            self.registry.register(self.queued)
        labels = ("route", "model", "version")
        self.requests = Series(
            Counter("genloom_requests", "Answered requests.", (*labels, "status"), registry=self.registry)
        )
        self.latency = Series(
            Histogram(
                "genloom_request_seconds",
                "Seconds from a request to the end of its answer.",
                labels,
                buckets=SECONDS,
                registry=self.registry,
            )
        )
        self.first = Series(
            Histogram(
                "genloom_first_byte_seconds",
                "Seconds from a request to the first piece of its answer's body.",
                labels,
                buckets=SECONDS,
                registry=self.registry,
            )
        )
        self.running = Gauge("genloom_requests_running", "Requests under way.", registry=self.registry)

    async def count_jobs(self) -> None:
        """Look how many jobs there are before they are told."""
        if self.queued is not None:
            await self.queued.look()

    def families(self) -> list[Metric]:
        """All series as they are now."""
        self._forget(time.monotonic())
        return list(self.registry.collect())

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        self._forget(time.monotonic())
        return generate_latest(self.registry)

    def route(self, path: str) -> str:
        """The template that `path` has, such as /v1/models/{name}; `OTHER` if there is none."""
        if path in self._plain:
            return path
        fitting = (name for name, template in self._templates.items() if template.match(path))
        return next(fitting, OTHER)

    def count(self, labels: tuple[str, str, str], status: str, seconds: float) -> None:
        """Note an answer by route, model and version."""
        self.requests.of((*labels, status)).inc()
        self.latency.of(labels).observe(seconds)
        if labels[1]:
            self._seen[labels[1:]] = time.monotonic()

    def _forget(self, now: float) -> None:
        """Let go of the series of versions that have not been served for long: there is a new one every night."""
        loaded = self.catalog.loaded.items()
        self._seen |= {(model, str(one.served.version)): now for model, one in loaded}
        for model, version in [own for own, at in self._seen.items() if now - at > GONE]:
            for series in (self.requests, self.latency, self.first):
                series.forget(model, version)
            del self._seen[model, version]


class Engines(Collector):
    """Reads the engines at the moment of the question, so that a step costs nothing for it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """The queue, the fill of the batch, and what was generated, by model and version."""
        for name, (kind, about) in ENGINE.items():
            family = kind(f"genloom_{name}", about, labels=("model", "version"))
            for labels, loaded in self._versions().items():
                family.add_metric(labels, float(_read(loaded)[name]))
            yield family

    def _versions(self) -> dict[tuple[str, str], Loaded]:
        """What answers and what is tried, by model and version."""
        tried = [trial.loaded for trial in self.catalog.trials.values()]
        return {
            (one.served.product, str(one.served.version)): one
            for one in (*tried, *self.catalog.loaded.values())
        }


class Tried(Collector):
    """Reads the tallies of the trials, of both sides, so that one can be seen beside the other."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """Answers, failures, what a shadow was not asked, latencies and variety."""
        labels = ("model", "version", "trial")
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            name: Counted(f"genloom_trial_{name}", about, labels=labels) for name, about in TRIED.items()
        }
        seconds = Gauged("genloom_trial_seconds", "Quantiles of the latency.", labels=(*labels, "quantile"))
        variety = Gauged("genloom_trial_variety", "How varied the samples of probes are.", labels=labels)
        for product, trial in self.catalog.trials.items():
            for loaded, tally in zip((trial.champion, trial.loaded), trial.tallies(), strict=True):
                own = (product, str(loaded.served.version), trial.line.event)
                for name, family in families.items():
                    family.add_metric(own, getattr(tally, name))
                variety.add_metric(own, tally.variety.mean)
                for share in QUANTILES:
                    if (value := tally.quantile(share)) is not None:
                        seconds.add_metric((*own, f"{share:g}"), value)
        yield from (*families.values(), seconds, variety)


class Queued(Collector):
    """The jobs by status, as they were last counted; all replicas count in one folder."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.counts: Mapping[str, int] = {}

    async def look(self) -> None:
        """Count, beside the loop, as folders may be slow; what cannot be read is left out."""
        try:
            found = await asyncio.to_thread(self.jobs.counts)
            self.counts = {str(status): count for status, count in found.items()}
        except Exception:  # whatever is wrong with a job, the other numbers are told
            log.exception("the jobs could not be counted")
            self.counts = {}

    def collect(self) -> Iterator[Metric]:
        """Jobs by status."""
        family = Gauged("genloom_jobs", "Jobs that generate in bulk, by status.", labels=("status",))
        for status, count in self.counts.items():
            family.add_metric((status,), count)
        yield family


def _read(loaded: Loaded) -> dict[str, int]:
    """The numbers of one model by the names of their metrics."""
    engine, tally = loaded.engine, loaded.engine.tally
    return {
        "rows_waiting": engine.waiting,
        "engine_width": engine.width,
        "engine_healthy": engine.healthy,
        "engine_steps": tally.steps,
        "engine_rows": tally.rows,
        "rows_finished": tally.finished,
        "rows_failed": tally.failed,
        "tokens": tally.tokens,
        "withheld": 0 if loaded.filter is None else loaded.filter.withheld,
    }


class Watched:
    """The middleware that counts, times and logs every answer; model and version are those that its headers name.

    Where the application fails before it has answered, `failed` makes the answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, failed: Failed, log: AccessLog | None = None) -> None:
        self.app, self.metrics, self.failed, self.log = app, metrics, failed, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and look at what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        metrics, began = self.metrics, time.perf_counter()
        route = metrics.route(route_of(scope))
        labels, status, first = (route, "", ""), GONE_BEFORE, True

        async def seen(message: Message) -> None:
            """Send `message` on; the first two tell status, labels and the time to the first byte."""
            nonlocal labels, status, first
            if message["type"] == "http.response.start":
                model = version = ""
                for name, value in message["headers"]:
                    if name == b"x-genloom-model":
                        model = value.decode("latin-1")
                    elif name == b"x-genloom-version":
                        version = value.decode("latin-1")
                labels = (route, model, version)
                status = str(message["status"])
            elif first and message.get("body"):
                first = False
                metrics.first.of(labels).observe(time.perf_counter() - began)
            await send(message)

        metrics.running.inc()
        try:
            await self.app(scope, receive, seen)
        except Exception as error:
            if status == GONE_BEFORE:
                await self.failed(Request(scope), error)(scope, receive, seen)
            status = "500"
            raise
        finally:
            metrics.running.dec()
            seconds = time.perf_counter() - began
            metrics.count(labels, status, seconds)
            if self.log is not None:
                self.log.add(scope, status, seconds, *labels[1:])
