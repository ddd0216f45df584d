"""One real server: Ray, Ray Serve, its proxy, a replica; asked over HTTP as applications do."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import psutil
import pytest
from PIL import Image

from components.errors import UserError
from components.labels import png
from components.modalities.drawing import ImageRequest
from components.promotion.registry import Registry
from components.serving import server
from components.serving.catalog import Served, open_version
from components.settings import Settings
from tests.components.serving.asking import hang_up
from tests.until import until


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=64))


def ask(url: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{url}/v1/images/generations", json={"model": "digits", **body})


def test_the_openai_client_works_unchanged(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["digits", "tales", "kinds", "holes"]
    answer = client.images.generate(model="digits", prompt="", n=4, size="auto", extra_body={"seed": 7})
    assert answer.data is not None
    pictures = [base64.b64decode(item.b64_json or "") for item in answer.data]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(8, 8)] * 4
    with pytest.raises(openai.NotFoundError, match="did you mean digits"):
        client.images.generate(model="digit", prompt="")
    with pytest.raises(openai.BadRequestError, match="“n” is 0"):
        client.images.generate(model="digits", prompt="", n=0)
    raw = client.images.with_raw_response.generate(model="digits", prompt="")
    assert raw.headers["x-genloom-version"] == "1"
    assert raw.headers["x-request-id"]


def test_clients_at_once_get_the_same_bits_for_the_same_seed(url: str) -> None:
    def client(number: int) -> tuple[int, list[dict[str, Any]]]:
        answer = ask(url, n=1 + number % 7, seed=number % 5)
        return number % 5, answer.json()["data"]

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(client, range(100)))
    longest = {seed: max((data for own, data in answers if own == seed), key=len) for seed in range(5)}
    assert all(data == longest[seed][: len(data)] for seed, data in answers)


def test_the_server_draws_what_the_model_draws_here(url: str, site: Any) -> None:
    registry = Registry(site.settings)
    folder = registry.fetch(registry.version("digits", 1))
    loaded = open_version(Served("digits", 1, folder, 0), site.settings)
    files, _ = loaded.generate(ImageRequest(n=20, seed=3))
    loaded.engine.close()
    answer = ask(url, n=20, seed=3)
    drawn = [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]
    assert [png.content(file) for file in drawn] == [png.content(file) for file in files]


def test_errors_pass_the_proxy_in_openai_s_shape(url: str) -> None:
    large = b'{"user": "' + b"a" * 2**20 + b'"}'
    target = f"{url}/v1/images/generations"
    answers = {
        400: httpx.post(target, content=b"{", headers={"content-type": "application/json"}),
        404: httpx.get(f"{url}/nothing"),
        405: httpx.get(target),
        413: httpx.post(target, content=large, headers={"content-type": "application/json"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert len(answer.headers.get_list("x-request-id")) == 1


def settled(process: psutil.Process) -> float:
    """Seconds of CPU that `process` has used, once it is idle."""
    before = -1.0
    while (used := sum(process.cpu_times()[:2])) > before + 0.1:
        before = used
        time.sleep(0.5)
    return used


def test_a_client_that_leaves_costs_no_more(url: str, site: Any) -> None:
    running = server.find(site.settings)
    assert running is not None
    owner = psutil.Process(running.pid)
    replica = next(one for one in owner.children(recursive=True) if "Replica" in one.name())
    large = {"model": "digits", "n": 128, "size": "512x512"}
    target, began, start = f"{url}/v1/images/generations", settled(replica), time.monotonic()
    for _ in range(16):
        assert ask(url, **large).status_code == 200
    share = (time.monotonic() - start) / 16 / 10
    whole = settled(replica) - began
    for _ in range(16):
        leaves = time.monotonic() + share
        hang_up(target, large, lambda leaves=leaves: time.monotonic() > leaves)
    assert settled(replica) - began - whole < 0.7 * whole


def test_what_listens_beyond_loopback_wants_the_token(url: str, site: Any) -> None:
    running = server.find(site.settings)
    assert running is not None
    owner = psutil.Process(running.pid)
    processes = {process.pid: process for process in (owner, *owner.children(recursive=True))}
    listening = [
        (item.laddr, processes[item.pid].cmdline()[0])
        for item in psutil.net_connections("tcp")
        if item.pid in processes and item.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    beyond = [(address.port, name) for address, name in listening if address.ip not in loopback]
    assert [name for _, name in beyond] == ["ray::ServeReplica:genloom:endpoint"]
    call = grpc.insecure_channel(f"127.0.0.1:{beyond[0][0]}").unary_unary(
        "/ray.serve.ASGIService/HandleRequest"
    )
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_generate_asks_the_server_and_writes_a_grid_or_files(
    url: str, genloom: Callable[..., Any], tmp_path: Path
) -> None:
    said = genloom("generate", "digits", "-n", 16, "--seed", 7, "-o", tmp_path / "grid.png")
    assert said.code == 0, said.err
    assert f"by the server at {url}" in said.out
    assert min(Image.open(tmp_path / "grid.png").size) > 4 * 56
    (tmp_path / "many").mkdir()
    assert genloom("generate", "digits", "-n", 3, "--seed", 7, "-o", tmp_path / "many").code == 0
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == [
        f"digits-1-{seed}.png" for seed in (7, 8, 9)
    ]
    other = genloom("generate", "digits", "--version", 2, "--seed", 7, "-o", tmp_path / "two.png")
    assert "loaded here" in other.out
    assert (tmp_path / "two.png").read_bytes() != (tmp_path / "grid.png").read_bytes()


def test_status_says_what_is_served(url: str, elsewhere: Callable[..., Any]) -> None:
    status = json.loads(elsewhere("serve", "--status", "--json").out)
    assert (status["running"], status["url"]) == (True, url)
    assert [(model["id"], model["version"]) for model in status["models"]] == [
        ("digits", 1),
        ("tales", 1),
        ("kinds", 1),
        ("holes", 1),
    ]
    served = {"digits": 1, "tales": 1, "kinds": 1, "holes": 1}
    [application] = status["applications"]
    assert (application["application"], application["replicas"], application["wanted"]) == ("genloom", 1, "1")
    assert application["models"] == served
    assert "digits/1" in elsewhere("serve", "--status").out


def test_a_server_that_runs_elsewhere_is_not_moved(url: str, site: Any) -> None:
    with pytest.raises(UserError, match="runs already at"):
        server.start_detached(site.settings, port=1)
    assert server.start_detached(site.settings).url == url


def test_a_moved_champion_reaches_the_server_and_a_rollback_too(
    url: str, elsewhere: Callable[..., Any]
) -> None:
    def answers(number: int) -> bool:
        return ask(url, model="digits", seed=1).headers["x-genloom-version"] == str(number)

    first = ask(url, model="digits", seed=1).json()["data"]
    assert elsewhere("promote", "digits", "--version", "2", "--force", "--why", "a test").code == 0
    until(lambda: answers(2))
    assert ask(url, model="digits", seed=1).json()["data"] != first
    assert elsewhere("rollback", "digits").code == 0
    until(lambda: answers(1))
    assert ask(url, model="digits", seed=1).json()["data"] == first


def test_another_version_takes_over_without_a_gap(url: str, elsewhere: Callable[..., Any]) -> None:
    over = threading.Event()
    seen: list[tuple[int, str | None]] = []

    def watch() -> None:
        while not over.is_set():
            answer = ask(url, seed=1)
            seen.append((answer.status_code, answer.headers.get("x-genloom-version")))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = elsewhere("serve", "digits", "--version", "2", "--detach")
    over.set()
    watcher.join()
    assert said.code == 0, said.err
    assert {status for status, _ in seen} == {200}
    versions = [version for _, version in seen]
    assert versions[0] == "1"
    assert set(versions) <= {"1", "2"}  # while both replicas are there, either may answer
    assert ask(url).headers["x-genloom-version"] == "2"


def test_stop_ends_every_process_and_generate_goes_on_with_the_same_bits(
    url: str, site: Any, genloom: Callable[..., Any], tmp_path: Path
) -> None:
    served, local = tmp_path / "served.png", tmp_path / "local.png"
    assert f"by the server at {url}" in genloom("generate", "digits", "--seed", 5, "-o", served).out
    running = server.find(site.settings)
    assert running is not None
    processes = psutil.Process(running.pid).children(recursive=True)
    assert "has ended" in genloom("serve", "--stop").out
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    assert "No server runs." in genloom("serve", "--stop").out
    assert json.loads(genloom("serve", "--status", "--json").out) == {"running": False}
    said = genloom("generate", "digits", "--version", "2", "--seed", 5, "-o", local)
    assert "loaded here" in said.out
    assert local.read_bytes() == served.read_bytes()


def test_a_port_in_use_is_said_before_anything_starts(
    site: Any, genloom: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the site, whose own server may run."""
    ours = shutil.ignore_patterns("serve", "cluster.json", "ray-token", "keys*")
    copy = shutil.copytree(site.settings.home, tmp_path / "copy", ignore=ours)
    monkeypatch.setenv("GENLOOM_HOME", str(copy))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        for options in (["--detach"], []):
            said = genloom("serve", "digits", "--port", number, *options)
            assert said.code == 2
            assert f"The port {number} on 127.0.0.1 cannot be used" in said.err
            assert "--port" in said.err
            assert said.err.count("\n") == 1
        home = tmp_path / "home"
        with pytest.raises(UserError, match=f"{number}"):
            server.start_detached(Settings(home=home, port=number))
        assert not server.log_of(Settings(home=home)).exists()
    assert server.find(Settings(home=copy)) is None


def test_bad_use_is_one_sentence(genloom: Callable[..., Any], tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "out.png"
    for arguments, said in (
        (("serve",), "Name the product to serve"),
        (("serve", "digts"), "did you mean digits"),
        (("serve", "mnist"), "genloom retrain mnist-vae"),
        (("serve", "digits", "--version", "9"), "There is no version digits/9"),
        (("generate", "digts"), "did you mean digits"),
        (("generate", "digits", "-n", "0"), "greater than or equal to 1"),
        (("generate", "digits", "-n", "many"), "valid integer"),
        (("generate", "digits", "--seed", "-1"), "greater than or equal to 0"),
        (("generate", "digits", "--size", "9x9"), "no whole multiple"),
        (("generate", "digits", "--size", "large"), "“size” is"),
        (("generate", "digits", "-o", missing), "There is no folder"),
        (("generate", "digits", "-o", tmp_path / "out.jpg"), "out.png"),
    ):
        result = genloom(*arguments)
        assert result.code == 2, arguments
        assert said in result.err, arguments
        assert result.err.count("\n") == 1, result.err
    assert list(tmp_path.iterdir()) == []


def test_a_host_beyond_loopback_wants_keys(
    genloom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        said = genloom("serve", "digits", "--host", "0.0.0.0", "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "nobody is let in without a key, and there are none yet" in said.err
