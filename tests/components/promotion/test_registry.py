import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.artifact import read_manifest
from components.errors import UserError
from components.evaluation.report import read_report, write_report
from components.project import ProductRow
from components.promotion.promote import promote, rollback
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings
from components.tracking import Tracker


def test_a_version_carries_where_it_comes_from(settings: Settings, make, register) -> None:
    found = register(1)
    artifact, _ = make(1)
    assert (found.product, found.number, found.name) == ("digits", 1, "digits/1")
    assert found.digest == read_manifest(artifact)["digest"]
    assert (found.run, found.run_id, found.family, found.key) == (
        "digits-vae",
        "digits-vae-1",
        "vae",
        "key-1",
    )
    assert (found.dataset, found.revision, found.commit, found.dirty) == ("digits", "r1", "0123abcd", True)
    assert (found.flow_run, found.aliases) == ("flow-7", ("challenger",))
    assert found.parameters["model"] == {"latent": 2, "width": 8}
    assert found.created.endswith("+00:00")
    assert Registry(settings).products() == ["digits"]


def test_registering_again_changes_nothing(settings: Settings, register) -> None:
    first = register(1)
    assert register(1) == first
    second = register(2)
    assert (second.number, second.aliases) == (2, ("challenger",))
    assert register(1).aliases == ()
    assert [version.number for version in Registry(settings).versions("digits")] == [1, 2]


def test_a_version_is_found_by_its_training_and_by_name(settings: Settings, register) -> None:
    registry = Registry(settings)
    assert registry.find("digits", "key-1") is None
    first, second = register(1), register(2)
    assert registry.find("digits", "key-2") == second
    assert registry.find("digits", "key-9") is None
    assert registry.version("digits", 2) == registry.named("digits@challenger") == second
    assert registry.named("digits/1").digest == first.digest
    for reference, words in {
        "digits/9": "no version digits/9; there are: 1, 2",
        "digits@champion": "no champion yet",
        "digits@best": "“best” names no version",
        "digit/1": "did you mean digits",
    }.items():
        with pytest.raises(UserError, match=words):
            registry.named(reference)


def test_a_fetched_artifact_is_the_registered_one_and_is_fetched_once(
    settings: Settings, make, register
) -> None:
    version = register(1)
    folder = Registry(settings).fetch(version)
    assert folder == settings.home / "models" / "digits" / "1"
    assert read_manifest(folder) == read_manifest(make(1)[0])
    before = (folder / "model.json").stat().st_mtime_ns
    assert Registry(settings).fetch(version) == folder
    assert (folder / "model.json").stat().st_mtime_ns == before
    assert {path.name for path in folder.parent.iterdir()} == {"1", ".1.lock"}


def stored(settings: Settings, name: str) -> Path:
    [path] = (settings.home / "mlartifacts").glob(f"digits/models/*/artifacts/{name}")
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_an_altered_or_missing_copy_is_fetched_again(settings: Settings, register, harm: Callable) -> None:
    version = register(1)
    folder = Registry(settings).fetch(version)
    harm(folder / "networks.safetensors")
    assert read_manifest(Registry(settings).fetch(version))["digest"] == version.digest


@pytest.mark.parametrize("name", ["networks.safetensors", "model.json"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_an_altered_or_missing_file_of_the_registry_is_refused(
    settings: Settings, register, harm: Callable, name: str
) -> None:
    version = register(1)
    harm(stored(settings, f"artifact/{name}"))
    with pytest.raises(UserError, match=r"The registry's files of digits/1 cannot be used"):
        Registry(settings).fetch(version)
    assert not (settings.home / "models" / "digits" / "1").exists()


def test_another_whole_artifact_in_its_place_is_refused(settings: Settings, make, register) -> None:
    version = register(1)
    place = stored(settings, "artifact")
    shutil.rmtree(place)
    shutil.copytree(make(2)[0], place)
    with pytest.raises(UserError, match="was registered with"):
        Registry(settings).fetch(version)


def test_files_that_are_gone_are_reported_in_a_sentence(settings: Settings, register) -> None:
    version = register(1)
    shutil.rmtree(settings.home / "mlartifacts")
    with pytest.raises(UserError, match=r"The registry's files of digits/1 cannot be used"):
        Registry(settings).fetch(version)


def test_the_evaluation_comes_with_its_pictures_and_can_be_renewed(
    settings: Settings, make, register
) -> None:
    registry = Registry(settings)
    version = register(1, distance=10.0)
    assert registry.report(version).metrics["distance"].value == 10.0
    assert (registry.pictures(version) / "samples.png").read_bytes() == b"png"
    renewed = registry.evaluated(version, make(1, distance=11.0, revision="r2")[1])
    assert registry.report(renewed).revision == "r2"
    assert registry.report(version).revision == "r1"
    assert registry.version("digits", 1) == renewed


def test_a_report_that_is_replaced_meanwhile_is_not_registered_by_the_name_of_another(
    settings: Settings, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, evaluation = make(1, distance=10.0)
    registry, later = Registry(settings), read_report(make(1, distance=11.0)[1] / "report.json")
    send = registry.client.log_model_artifacts
    writer = threading.Thread(target=write_report, args=(evaluation, later))

    def slowly(model: str, folder: str, place: str) -> None:
        if place.startswith("evaluation"):
            writer.start()
            writer.join(0.5)
        send(model, folder, place)

    monkeypatch.setattr(registry.client, "log_model_artifacts", slowly)
    version = registry.register(artifact, evaluation, "digits-vae-1", "")
    writer.join()
    assert registry.report(version).metrics["distance"].value == 10.0
    assert read_report(evaluation / "report.json") == later


def test_an_altered_report_is_refused(settings: Settings, register) -> None:
    version = register(1)
    path = stored(settings, f"evaluation/{version.evaluation}/report.json")
    path.write_text(path.read_text().replace("10.0", "1.0"))
    with pytest.raises(UserError, match=r"report\.json was altered"):
        Registry(settings).report(version)


def test_an_altered_artifact_is_not_registered(settings: Settings, make) -> None:
    artifact, evaluation = make(1)
    flip(artifact / "networks.safetensors")
    with pytest.raises(UserError, match="altered"):
        Registry(settings).register(artifact, evaluation, "digits-vae-1", "")
    assert Registry(settings).products() == []


@pytest.mark.parametrize(
    "step",
    ["log_model_artifacts", "finalize_logged_model", "create_model_version", "set_registered_model_alias"],
)
def test_an_interrupted_registration_is_repeated_safely(
    settings: Settings, make, register, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    registry = Registry(settings)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.client, step, killed)
    with pytest.raises(KeyboardInterrupt):
        registry.register(*make(1), "digits-vae-1", "", "flow-7")
    version: Version = register(1)
    assert (version.number, version.aliases) == (1, ("challenger",))
    assert read_manifest(registry.fetch(version))["digest"] == version.digest
    assert len(list((settings.home / "mlartifacts").glob("digits/models/*"))) == 1


def test_a_project_that_was_moved_keeps_its_versions(settings: Settings, register, tmp_path: Path) -> None:
    register(1)
    moved = Settings(home=settings.home.rename(tmp_path / "a new home"))
    registry = Registry(moved)
    version = registry.named("digits@challenger")
    assert read_manifest(registry.fetch(version))["digest"] == version.digest
    assert not settings.home.exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that keeps the artifacts itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", "files"]
    with (tmp_path / "server.log").open("w") as log:
        started = subprocess.Popen(
            [*command, *places, "--workers", "1"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.3)
        yield uri
    finally:
        os.killpg(started.pid, 15)
        started.wait(timeout=30)


@pytest.mark.long
def test_a_server_keeps_versions_as_the_local_file_does(server: str, make, tmp_path: Path) -> None:
    settings, row = Settings(home=tmp_path / "home", tracking_uri=server), ProductRow(dataset="digits")
    registry = Registry(settings)
    for seed, distance in ((1, 10.0), (2, 9.0)):
        run = Tracker(settings).begin(f"digits-vae-{seed}", "digits-vae", {}, {"product": "digits"})
        version = registry.register(*make(seed, distance), f"digits-vae-{seed}", run, "flow-7")
        assert registry.register(*make(seed, distance), f"digits-vae-{seed}", run) == version
        assert promote(settings, "digits", row).accepted
    assert registry.find("digits", "key-1").number == 1
    assert rollback(settings, "digits").version == 1
    champion = registry.version("digits", "champion")
    assert read_manifest(registry.fetch(champion))["digest"] == champion.digest
    assert registry.report(champion).metrics["distance"].value == 10.0
    assert not (settings.home / "mlartifacts").exists()
