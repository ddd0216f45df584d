"""Ray Serve: one deployment that holds routes, engines and models, because a second hop costs more than a model.

The process must be connected to Ray (components/cluster.py). Versions are resolved before they come here, so
that all replicas agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter
from ray import serve
from ray.experimental import internal_kv
from ray.serve.config import BackpressureConfig, HTTPOptions

from components.errors import FailedError
from components.serving import bulk
from components.serving.catalog import Served
from components.serving.follow import Follower, open_champions
from components.serving.keys import keyring
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.settings import LOOPBACK, Settings

NAME = "genloom"
SERVED, HOST = "served", "host"
IN_FLIGHT = 2048
"""Requests in one replica; more than its engines' queues hold, so that the engine is the one that refuses."""
TIMEOUT = 300.0
"""Seconds after which the proxy gives a request up."""


class Endpoint:
    """One replica."""

    def __init__(self, served: Sequence[Served], settings: Settings) -> None:
        self.catalog = open_champions(served, settings)
        self.follower = Follower(self.catalog, settings)
        self.follower.start()
        self.access = Access(keyring(settings), required=settings.host not in LOOPBACK)
        self.jobs = bulk.jobs_of(settings)
        bulk.resume(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.catalog, self.access, self.follower.close, self.jobs)

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self.catalog.healthy:
            raise RuntimeError("an engine keeps failing; its traceback is above")


def open_proxy(host: str, port: int) -> None:
    """Start Ray Serve's controller and its HTTP proxy, with nothing to serve yet."""
    _hush()
    if internal_kv._internal_kv_get(HOST, namespace=NAME) is None:
        internal_kv._internal_kv_put(HOST, host.encode(), namespace=NAME)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=TIMEOUT),
    )


def served() -> list[Served]:
    """What the application serves now, by the cluster's own memory, which ends with the cluster."""
    kept = internal_kv._internal_kv_get(SERVED, namespace=NAME)
    return [] if kept is None else TypeAdapter(list[Served]).validate_json(kept)


def _remember(versions: Sequence[Served]) -> None:
    content = TypeAdapter(list[Served]).dump_json(list(versions))
    internal_kv._internal_kv_put(SERVED, content, overwrite=True, namespace=NAME)


def roll_out(versions: Sequence[Served], settings: Settings) -> None:
    """Serve exactly `versions`; the old replica answers until the new one is warm.

    Raises `FailedError` if the new one does not come up; then the old versions stay.
    """
    _hush()
    before = served()
    try:
        serve.run(_application(versions, settings), name=NAME, route_prefix="/")
    except RuntimeError as error:
        if before:
            serve.run(_application(before, settings), name=NAME, route_prefix="/")
        else:
            serve.delete(NAME)
        names = ", ".join(f"{one.product}/{one.version}" for one in versions)
        raise FailedError(
            f"Ray Serve could not start {names}; what was served before stays. {_cause(error)}"
        ) from error
    _remember(versions)


def withdraw() -> None:
    """Take the application away and leave the cluster as it is."""
    _hush()
    serve.delete(NAME)
    bulk.dismiss()
    _remember([])


def _hush() -> None:
    """Keep Ray Serve's progress out of the terminal; its replicas' logs have it."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def _application(versions: Sequence[Served], settings: Settings) -> Any:
    """The deployment of `versions`; who is let in is decided by where the proxy listens, whoever deploys."""
    host = internal_kv._internal_kv_get(HOST, namespace=NAME)
    if host is not None:
        settings = settings.model_copy(update={"host": host.decode()})
    deployment = serve.deployment(
        serve.ingress()(Endpoint),
        name="endpoint",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},  # a replica must not take a core from training
        max_ongoing_requests=IN_FLIGHT,
        max_queued_requests=IN_FLIGHT,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        max_surge_percent=100,
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment.bind(list(versions), settings)


def _cause(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""
