"""doctor: what it finds about services, ports and folders, and that nothing it is given makes it fall."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.commands import doctor, main

Genloom = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which only doctor is loaded, in an environment that names no service."""
    (tmp_path / "params.yaml").write_text("datasets: {digits: {source: digits}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "MODULES", ("doctor", "runs"))
    for name in ("PREFECT_API_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def found(root: Path, genloom: Genloom) -> Callable[[str], tuple[str, str]]:
    """What doctor finds about a subject: the verdict and the sentence."""

    def call(subject: str) -> tuple[str, str]:
        said = genloom("doctor", "--json")
        assert said.err == ""
        return {row["subject"]: (row["verdict"], row["found"]) for row in json.loads(said.out)}[subject]

    return call


Found = Callable[[str], tuple[str, str]]


def test_an_address_that_is_none_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:abc/api")
    verdict, sentence = found("PREFECT_API_URL")
    assert verdict == "mend"
    assert "http://127.0.0.1:abc/api is no address" in sentence


@pytest.mark.parametrize("address", ["auto", "local"])
def test_ray_finds_its_cluster_itself(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    [finding] = [finding for finding in doctor._services("") if finding.subject == "RAY_ADDRESS"]
    assert finding.verdict == "ok"


def test_a_password_is_not_shown(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("GENLOOM_TRACKING_URI", f"postgresql://ada:se@cret@{place}/db")
        assert found("GENLOOM_TRACKING_URI") == ("ok", f"postgresql://***@{place}/db answers")


@pytest.mark.parametrize(
    ("name", "address", "port"),
    [
        ("GENLOOM_TRACKING_URI", "postgresql+psycopg2://host/db", 5432),
        ("GENLOOM_TRACKING_URI", "mysql://host/db", 3306),
        ("GENLOOM_TRACKING_URI", "http://host", 80),
        ("GENLOOM_TRACKING_URI", "https://host", 443),
        ("RAY_ADDRESS", "ray://host", 10001),
        ("RAY_ADDRESS", "host", 6379),
        ("RAY_ADDRESS", "host:7000", 7000),
    ],
)
def test_each_service_is_asked_at_its_own_port(
    name: str, address: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(doctor, "_answers", lambda *where: asked.append(where) or True)
    assert doctor._service(name, address).verdict == "ok"
    assert asked == [("host", port)]


def test_a_driver_that_hangs_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert "nvidia-smi does not answer" in doctor._gpu()


def test_the_port_is_tried_on_the_host_that_serves(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        monkeypatch.setenv("GENLOOM_PORT", str(server.getsockname()[1]))
        assert found("port")[0] == "ok"
        monkeypatch.setenv("GENLOOM_HOST", "127.0.0.2")
        verdict, sentence = found("port")
    assert verdict == "note"
    assert "serve with --port" in sentence


def test_storage_must_take_files(found: Found, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_text("")
    monkeypatch.setenv("GENLOOM_STORAGE", "file/shared")
    verdict, sentence = found("project")
    assert verdict == "mend"
    assert "(GENLOOM_STORAGE) cannot be written: Not a directory" in sentence
