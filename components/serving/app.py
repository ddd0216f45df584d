"""Ray Serve: one deployment that holds routes, engines and models, because a second hop costs more than a model.

The process must be connected to Ray (components/cluster.py). Versions are resolved before they come here, so
that all replicas agree.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.experimental import internal_kv
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview

from components import cluster
from components.errors import FailedError, UserError
from components.labels import reading
from components.serving import bulk, haproxy, live, protocol, tls
from components.serving.access_log import open_access_log
from components.serving.applications import APPLICATIONS, Application, remember
from components.serving.catalog import Served
from components.serving.declared import NAME, Replicas, check_room
from components.serving.exposition import Member
from components.serving.follow import Follower, open_champions
from components.serving.keys import keyring
from components.serving.live import Presence
from components.serving.records import Recorder, folder_of
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.serving.routes.leaving import LONGEST
from components.serving.shortcut import past_ray
from components.settings import LOOPBACK, Settings, cluster_address

HELD, HOST = "applications", "host"
IN_FLIGHT = 2048
"""Requests in one replica; more than its engines' queues hold, so that the engine is the one that refuses."""
HEALTH = 2.0
"""Seconds between two looks at a replica's engines; after three bad ones it is replaced."""
TIMEOUT = LONGEST
"""Seconds after which the proxy gives a request up."""
YOUNG = (20_000, 20, 20)
"""How many new objects the garbage collector lets come, and how often it looks at the young before the older ones."""
SOON = 2.0
"""The least seconds of requests that a decision about replicas looks back over."""
ROOM, ELSEWHERE = 120.0, 900.0
"""Seconds that a replica waits for what something else holds; more than a slow machine starts a process in.

A cluster that `RAY_ADDRESS` names may first have to add a node.
"""
WAITS = "to be scheduled"
"""What Ray Serve says, after half a minute, of a replica that has found no room."""


class Endpoint:
    """One replica."""

    def __init__(self, served: Sequence[Served], settings: Settings) -> None:
        _log_requests_once()
        self.settings = settings
        self.catalog = open_champions(served, settings)
        own = serve.get_replica_context()
        live.sweep(settings)
        self.presence = Presence(self.catalog, settings, own.app_name, own.replica_id.unique_id)
        self.follower = Follower(self.catalog, settings, self.presence.tell)
        self.follower.start()
        self.recorder = Recorder(folder_of(settings), settings.records_days)
        self.access = Access(keyring(settings), required=settings.host not in LOOPBACK)
        self.jobs = bulk.jobs_of(settings)
        there = ray.get_runtime_context().gcs_address.replace(":", "-")  # other clusters may share the folder
        self.member = Member(
            settings.shared / "metrics" / f"{own.app_name}-{there}", own.replica_id.unique_id
        )
        bulk.resume(settings)
        _settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Ray Serve's way leads to, and the short way as well."""
        app = create_app(
            self.catalog,
            self.access,
            self._close,
            self.recorder,
            self.jobs,
            self.member,
            lambda file: reading.read(file, self.settings, "The file"),
            open_access_log(self.settings),
        )
        protocol.install(past_ray(app))
        return app

    def _close(self) -> None:
        self.follower.close()
        self.presence.leave()

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self.catalog.healthy:
            raise RuntimeError("an engine keeps failing; its traceback is above")


def _settle() -> None:
    """Let the garbage collector pass over what is there: the modules and models that stay until the end.

    Looking through them takes it some tenths of a second, in which no request of this replica is answered. What a
    request leaves behind goes without it, but for a few objects, so that it need not look often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG)


@dataclass(frozen=True)
class State:
    """How an application is, by Ray Serve: its status, and how many of its replicas run."""

    status: str
    running: int

    @property
    def well(self) -> bool:
        """Whether it serves, or is about to."""
        return self.status in ("running", "deploying")


def open_proxy(host: str, port: int, settings: Settings) -> None:
    """Start Ray Serve's controller and its HTTP proxy, with nothing to serve yet; with TLS if the settings say so."""
    _hush()
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        internal_kv._internal_kv_put(HOST, host.encode(), overwrite=True, namespace=NAME)
    elif internal_kv._internal_kv_get(HOST, namespace=NAME) is None:  # whoever started it may let anybody in
        internal_kv._internal_kv_put(HOST, str(running.http_config.host).encode(), namespace=NAME)
    # replicas behind HAProxy have ports of their own at this host, and only HAProxy is to be asked from elsewhere
    own, files = (LOOPBACK[0], None) if haproxy.chosen() else (host, tls.pair(settings))
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=own,
            port=port,
            request_timeout_s=TIMEOUT,
            ssl_certfile=None if files is None else str(files[0]),
            ssl_keyfile=None if files is None else str(files[1]),
        ),
    )


def applications() -> list[Application]:
    """What is served now, by the cluster's own memory, which ends with the cluster."""
    kept = internal_kv._internal_kv_get(HELD, namespace=NAME)
    return [] if kept is None else APPLICATIONS.validate_json(kept)


def served() -> list[Served]:
    """The versions that the application at / serves."""
    return [one for application in applications() if application.path == "/" for one in application.served]


def states() -> dict[str, State]:
    """How the applications are, by path."""
    known = serve.status().applications
    found = {one.path: known.get(one.ray_name) for one in applications()}
    return {
        path: State(
            status=str(state.status.value).lower(),
            running=_running(state),
        )
        for path, state in found.items()
        if state is not None
    }


def _running(state: ApplicationStatusOverview) -> int:
    return sum(part.replica_states.get("RUNNING", 0) for part in state.deployments.values())


def _remember(held: Sequence[Application], settings: Settings) -> None:
    content = APPLICATIONS.dump_json(list(held))
    internal_kv._internal_kv_put(HELD, content, overwrite=True, namespace=NAME)
    remember(settings, held)


def roll_out(
    versions: Sequence[Served], settings: Settings, replicas: int | None = None, gpus: float | None = None
) -> None:
    """Have the application at / serve exactly `versions`, with so many replicas and GPUs, or what it has; see `put`.

    Raises `UserError` if that application is one of a file, which says what it serves, and if there are fewer GPUs.
    """
    before = next((one for one in applications() if one.path == "/"), None)
    if before is not None and before.name != NAME:
        raise UserError(
            f"The application {before.name} of a serving file has the path /; write the product into that file, "
            "and type genloom serve --file FILE."
        )
    kept = before or Application(NAME, "/", ())
    application = replace(
        kept,
        served=tuple(versions),
        replicas=kept.replicas if replicas is None else Replicas(min=replicas, max=replicas),
        gpus=kept.gpus if gpus is None else gpus,
    )
    if not cluster_address():  # another cluster may grow
        every = {one.name: one for one in (*applications(), application)}
        check_room(every, cluster.capacity(), "What is served")
    put(application, settings)


def put(application: Application, settings: Settings) -> None:
    """Serve `application` at its path; the replicas before it answer until the new ones are warm.

    Raises `FailedError` if the new ones do not come up; then what was served before stays.
    """
    _hush()
    held = applications()
    before = next((one for one in held if one.path == application.path), None)
    try:
        _run(application, settings)
    except RuntimeError as error:
        if before:
            with contextlib.suppress(RuntimeError):  # its old replicas answer until it can
                _run(before, settings)
        else:
            serve.delete(application.ray_name)
        names = ", ".join(f"{one.product}/{one.version}" for one in application.served)
        raise FailedError(
            f"Ray Serve could not start {names}; what was served before stays. {_cause(error)}"
        ) from error
    others = [one for one in held if one.path != application.path]
    _remember(sorted([*others, application], key=lambda one: one.path), settings)


def rename(application: Application, settings: Settings) -> None:
    """Give what is served at the path the name of `application`, and touch nothing else."""
    held = [one for one in applications() if one.path != application.path]
    _remember(sorted([*held, application], key=lambda one: one.path), settings)


def withdraw(settings: Settings, paths: Sequence[str] | None = None, patience: float | None = None) -> None:
    """Take the applications at `paths` away, or all of them, and leave the cluster as it is.

    Returns when their requests have ended, or after `patience` seconds.
    """
    _hush()
    held = applications()
    left = [] if paths is None else [one for one in held if one.path not in paths]
    _remember(left, settings)
    gone = [application.ray_name for application in held if application not in left]
    for name in gone:
        serve.delete(name, _blocking=patience is None)
    late = time.monotonic() + (patience or 0.0)
    while time.monotonic() < late and any(name in serve.status().applications for name in gone):
        time.sleep(0.1)
    if not left:
        bulk.dismiss()


def _hush() -> None:
    """Keep Ray Serve's progress out of the terminal; its replicas' logs have it."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def _log_requests_once() -> None:
    """Leave the access log to the replica's file: Ray Serve also writes it to the standard error, line by line."""
    for handler in logging.getLogger("ray.serve").handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(lambda record: not getattr(record, "serve_access_log", False))


def _run(application: Application, settings: Settings) -> None:
    """Deploy, and return when the replicas answer; raises RuntimeError if they fail, or find no room here."""
    target = serve.RunTarget(_bound(application, settings), application.ray_name, application.path)
    serve.run_many([target], wait_for_applications_running=False)
    elsewhere = bool(cluster_address())
    room, before = ELSEWHERE if elsewhere else ROOM, -1
    late = time.monotonic() + room
    while True:
        state = serve.status().applications[application.ray_name]
        if state.status == "RUNNING":
            return
        message = " ".join([state.message, *(part.message for part in state.deployments.values())])
        if state.status == "DEPLOY_FAILED":
            raise RuntimeError(message)
        running = _running(state)
        # one that has its room takes as long as its models do, and Ray Serve says of the others that they wait
        free = not elsewhere and (_fits(application) or WAITS not in message)
        if free or running != before:
            late, before = time.monotonic() + room, running
        if time.monotonic() > late:
            raise RuntimeError(
                f"A replica has waited {room:g} s for {application.cpus:g} CPUs and {application.gpus:g} GPUs that "
                "something else, such as a training, holds; wait for its end, or lower cpus or gpus."
            )
        time.sleep(0.5)


def _fits(application: Application) -> bool:
    """Whether nobody else has what one more replica reserves; parts of several GPUs, which Ray adds up, are none."""
    free = cluster.total(cluster.free_nodes())
    parted = 0 < application.gpus < 1
    return free.cpus >= application.cpus and free.gpus >= (1 if parted else application.gpus)


def _bound(application: Application, settings: Settings) -> Any:
    """The deployment of `application`; who is let in is decided by where the proxy listens, whoever deploys."""
    host = internal_kv._internal_kv_get(HOST, namespace=NAME)
    if host is not None:
        settings = settings.model_copy(update={"host": host.decode()})
    replicas = application.replicas
    deployment = serve.deployment(
        serve.ingress()(Endpoint),
        name="endpoint",
        num_replicas=replicas.max if replicas.fixed else None,
        autoscaling_config=None if replicas.fixed else _scaled(replicas),
        # none by default, to leave all cores to training
        ray_actor_options={"num_cpus": application.cpus, "num_gpus": application.gpus},
        max_ongoing_requests=IN_FLIGHT,
        max_queued_requests=IN_FLIGHT,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        max_surge_percent=1,  # rounded up: one replica after the other, which needs room for one more only
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=TIMEOUT,  # a replica that is replaced ends the requests that it has
        health_check_period_s=HEALTH,
    )
    served = [replace(one, device=application.device) for one in application.served]
    return deployment.bind(served, settings)


def _scaled(replicas: Replicas) -> AutoscalingConfig:
    """Ray Serve's own words; it begins with one replica, so that a version that cannot be loaded is seen at once."""
    return AutoscalingConfig(
        min_replicas=replicas.min,
        initial_replicas=max(1, replicas.min),
        max_replicas=replicas.max,
        target_ongoing_requests=replicas.requests,
        upscale_delay_s=replicas.up,
        downscale_delay_s=replicas.down,
        look_back_period_s=max(SOON, replicas.up),
        metrics_interval_s=SOON / 2,
    )


def _cause(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""
