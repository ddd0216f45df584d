"""The project's Ray: a cluster that `RAY_ADDRESS` names, the local one that already runs, or one started here.

A local cluster belongs to the process that started it and ends with it, even by kill -9. It listens on
loopback only and takes a token that lies in `GENLOOM_HOME`, so other projects and users stay out.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from components import files
from components.errors import FailedError, UserError
from components.settings import Settings, cluster_address, quiet_environment, writable_home

SERVE = {
    # One loop for replica, router and routes: a hop between threads costs more than a small model.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    # how many requests there are is told once a second, or a burst would be over before a replica is started
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # On a machine that trains meanwhile a proxy needs longer than Ray's five seconds, and would be killed for it.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
WORKERS = {
    # Ray starts workers at nice 15: a step of two lasts as long as the one that other work keeps from its core
    "RAY_worker_niceness": "0",
}
LOCAL = {
    # nobody takes the one node away, and each actor of Ray's wakes a hundred times a second beside the training
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
OBJECT_STORE = 256 * 2**20
"""Bytes of a local cluster's object store: data goes from Parquet to the workers without it."""
PATIENCE = 120.0
"""Seconds to wait for a cluster that another process is just starting."""


@dataclass(frozen=True)
class Local:
    """A project's own local cluster; `address` is empty while the owner is still starting it."""

    address: str
    pid: int
    started: float


@dataclass(frozen=True)
class Session:
    """Where a local cluster of the project keeps its logs and sockets, and the process that started it."""

    folder: str
    pid: int
    started: float


@dataclass(frozen=True)
class Capacity:
    """What all nodes have together, whether it is in use or not."""

    cpus: float
    gpus: float


def connect(settings: Settings, cpus: int | None = None, shared: bool = False) -> None:
    """Join `RAY_ADDRESS`, or the project's local cluster, or start a local one in this process.

    `cpus` counts only for one that is started (by default, the machine's); with `shared`, other processes
    of the project join it. A process that is connected stays as it is. Raises `UserError` if `RAY_ADDRESS`
    does not answer.
    """
    prepare_environment(settings)
    import ray

    if ray.is_initialized():
        return
    if named := cluster_address():
        _join(named, f"No Ray cluster answers at RAY_ADDRESS={named}")
        return
    _reread_token()
    local = _wait(settings)
    if local is not None:
        _join(local.address, f"The project's Ray at {local.address} (process {local.pid}) does not answer")
        return
    _start(settings, cpus, shared)


def disconnect(settings: Settings) -> None:
    """Leave the cluster; one that this process started is ended, and this returns when it is gone."""
    import ray

    ray.shutdown(wait_for_processes=True)
    local = _read(settings)
    if local is not None and local.pid == os.getpid():
        _file(settings).unlink(missing_ok=True)


def capacity() -> Capacity:
    """The CPUs and GPUs of the cluster that this process is connected to."""
    return total(nodes())


def nodes() -> list[Capacity]:
    """What each living node of that cluster has."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Capacity(cpus=have.get("CPU", 0.0), gpus=have.get("GPU", 0.0)) for have in found]


def total(nodes: Sequence[Capacity]) -> Capacity:
    """What they have together."""
    return Capacity(cpus=sum(node.cpus for node in nodes), gpus=sum(node.gpus for node in nodes))


def foreseen() -> Capacity | None:
    """What a local cluster can have at most, before there is one; None with `RAY_ADDRESS`, which has to be asked."""
    import torch

    if cluster_address():
        return None
    return Capacity(cpus=cores(), gpus=torch.cuda.device_count())


def cores() -> int:
    """The CPUs that this process may use: by its affinity and, in a container, by its quota."""
    import joblib

    return int(joblib.cpu_count())


def free_nodes() -> list[Capacity]:
    """What nobody has reserved of each living node."""
    from ray._private.state import available_resources_per_node  # Ray's public call only tells their sum

    found = available_resources_per_node().values()
    return [Capacity(cpus=have.get("CPU", 0.0), gpus=have.get("GPU", 0.0)) for have in found]


def find(settings: Settings) -> Local | None:
    """The project's local cluster if its owner lives, even while it is starting."""
    local = _read(settings)
    return local if local is not None and alive(local.pid, local.started) else None


def there(settings: Settings) -> bool:
    """Whether a Ray is there to join: this process's, `RAY_ADDRESS`'s, or the project's that runs or is starting."""
    ray = sys.modules.get("ray")
    joined = ray is not None and bool(ray.is_initialized())
    return joined or bool(cluster_address()) or find(settings) is not None


def alive(pid: int, started: float) -> bool:
    """Whether the process that began at `started` (seconds since the epoch) still runs under `pid`."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ended() -> bool:
    """Whether the Ray that this process started has lost one of its two servers, as for want of memory."""
    children = psutil.Process().children()
    running = {child.name() for child in children if child.status() != psutil.STATUS_ZOMBIE}
    return not {"raylet", "gcs_server"} <= running


def prepare_environment(settings: Settings) -> None:
    """Set what Ray reads when it is imported or started; with `RAY_ADDRESS`, security is that cluster's."""
    quiet_environment()
    local = not cluster_address()
    for name, value in {**SERVE, **WORKERS, **(LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)
    if not local:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token(settings))


def _token(settings: Settings) -> Path:
    """The file with the secret of the project's clusters, made on first use, readable by its owner only."""
    path = writable_home(settings) / "ray-token"
    with FileLock(path.with_name(f".{path.name}.lock")):  # two that begin at once must not have two secrets
        if not path.exists():
            files.write(path, secrets.token_hex(32), mode=0o600)
    return path


def _reread_token() -> None:
    """Make Ray's core see the environment again: it keeps mode and token from its import or another project."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start(settings: Settings, cpus: int | None, shared: bool) -> None:
    import ray

    if shared:
        announce(settings, os.getpid())
    context = ray.init(
        address="local",
        num_cpus=cores() if cpus is None else cpus,  # Ray itself knows no affinity
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    _note_session(settings, Path(str(context.address_info["session_dir"])))
    if shared:
        announce(settings, os.getpid(), str(context.address_info["gcs_address"]))


def _note_session(settings: Settings, folder: Path) -> None:
    """Write down where a Ray of the project keeps its logs, which nobody else knows once its process was killed."""
    own = Session(str(folder), os.getpid(), psutil.Process().create_time())
    with FileLock(settings.home / ".sessions-lock"):
        known = [one for one in _sessions(settings) if Path(one.folder).is_dir()]
        files.write(_sessions_file(settings), json.dumps([asdict(one) for one in (*known, own)]))


def sessions_left(settings: Settings) -> list[Path]:
    """The folders of the project's Rays whose processes have ended."""
    gone = [Path(one.folder) for one in _sessions(settings) if not alive(one.pid, one.started)]
    return [folder for folder in gone if folder.is_dir() and folder.name.startswith("session_")]


def _sessions(settings: Settings) -> list[Session]:
    try:
        return [Session(**one) for one in json.loads(_sessions_file(settings).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _sessions_file(settings: Settings) -> Path:
    return settings.home / "ray-sessions.json"


def _join(address: str, failure: str) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        _knock(address)
    except (OSError, ValueError) as error:
        raise UserError(f"{failure}; start it, or correct or unset RAY_ADDRESS.") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        cause = next(iter(str(error).strip().splitlines()), "").rstrip(".:") or type(error).__name__
        raise UserError(
            f"The Ray cluster at {address} takes nobody in ({cause}); mend that, or correct or unset RAY_ADDRESS."
        ) from error


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless something listens at `address`: Ray itself would wait for ever."""
    if address in ("auto", "local"):
        return
    place = urlsplit(address if "://" in address else f"//{address}")
    socket.create_connection((place.hostname or "", place.port or 6379), timeout=5).close()


def _wait(settings: Settings) -> Local | None:
    """The local cluster of a living owner, once it is up; None if there is none."""
    deadline = time.monotonic() + PATIENCE
    while (local := find(settings)) is not None and not local.address and local.pid != os.getpid():
        if time.monotonic() > deadline:
            raise FailedError(f"The project's Ray (process {local.pid}) does not come up; end that process.")
        time.sleep(0.1)
    return local if local is not None and local.address else None


def _file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def announce(settings: Settings, pid: int, address: str = "") -> None:
    """Tell the project's other processes to join the Ray of process `pid`; without an address, to wait for it."""
    local = Local(address, pid, psutil.Process(pid).create_time())
    files.write(_file(settings), json.dumps(asdict(local)))


def _read(settings: Settings) -> Local | None:
    try:
        return Local(**json.loads(_file(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
