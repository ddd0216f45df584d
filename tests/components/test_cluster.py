from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components import cluster
from components.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def connecting(settings: Settings, **environment: str) -> str:
    """What `connect` says in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from components import cluster, errors, settings\n"
        "try: cluster.connect(settings.Settings(home=Path(sys.argv[1])))\n"
        "except errors.UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(settings.home)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_cluster_is_found_while_its_owner_lives(settings: Settings) -> None:
    assert cluster.find(settings) is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        cluster.announce(settings, owner.pid)
        found = cluster.find(settings)
        assert found is not None
        assert (found.pid, found.address) == (owner.pid, "")
        cluster.announce(settings, owner.pid, "127.0.0.1:1")
        found = cluster.find(settings)
        assert found is not None
        assert found.address == "127.0.0.1:1"
        owner.kill()
    assert cluster.find(settings) is None


def test_a_process_that_got_an_owner_s_number_later_is_not_the_owner() -> None:
    started = psutil.Process().create_time()
    assert cluster.alive(os.getpid(), started)
    assert not cluster.alive(os.getpid(), started - 100)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_record_is_no_cluster(settings: Settings, content: str) -> None:
    (settings.home / "cluster.json").write_text(content)
    assert cluster.find(settings) is None


def test_the_token_is_kept_and_for_its_owner_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    cluster.prepare_environment(settings)
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    token = path.read_text()
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    cluster.prepare_environment(settings)
    assert path.read_text() == token


def test_another_cluster_s_security_is_left_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster.prepare_environment(settings)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_an_address_that_does_not_answer_is_one_sentence_and_soon(settings: Settings) -> None:
    began = time.monotonic()
    assert "RAY_ADDRESS=127.0.0.1:1;" in connecting(settings, RAY_ADDRESS="127.0.0.1:1")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        cluster.announce(settings, owner.pid, "127.0.0.1:1")
        said = connecting(settings)
        owner.kill()
    assert f"(process {owner.pid}) does not answer" in said
    assert time.monotonic() - began < 45


def test_many_that_begin_at_once_have_one_token(settings: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from components import cluster, settings\n"
        "input(); print(cluster._token(settings.Settings(home=Path(sys.argv[1]))).read_text())"
    )
    line = [sys.executable, "-c", code, str(settings.home)]
    many = [
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for one in many:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert len({one.communicate()[0] for one in many}) == 1


def test_a_cluster_that_takes_nobody_in_is_one_sentence(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said = connecting(
            settings, RAY_ADDRESS=address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH="/nowhere"
        )
    assert said.startswith(f"The Ray cluster at {address} takes nobody in (")
    assert said.count("\n") == 1
