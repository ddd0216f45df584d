import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from components.settings import Settings
from components.tracking import Tracker

PARAMETERS = {"family": "vae", "model": {"latent": 16}, "train": {"steps": 10, "threads": None}}
TAGS = {"product": "digits", "family": "vae"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("tracking") / "what's 100%20 # odd? é"
    home.mkdir()
    return Settings(home=home)


@pytest.fixture
def tracker(settings: Settings) -> Tracker:
    return Tracker(settings)


def test_a_run_holds_its_parameters_numbers_and_pictures(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.begin("digits-vae-1", "digits-vae", PARAMETERS, TAGS)
    for step in (50, 100):
        tracker.log(run, {step: {"loss/autoencoder": 1.0 / step, "rows_per_second": 100}})
    (tmp_path / "step-000100.png").write_bytes(b"png")
    tracker.picture(run, tmp_path / "step-000100.png")
    tracker.end(run, "FINISHED")
    found = tracker.client.get_run(run)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "digits-vae")
    assert tracker.client.get_experiment(found.info.experiment_id).name == "digits"
    assert found.data.params["model.latent"] == "16"
    assert found.data.tags["genloom.run_id"] == "digits-vae-1"
    history = tracker.client.get_metric_history(run, "loss/autoencoder")
    assert [(point.step, point.value) for point in history] == [(50, 0.02), (100, 0.01)]
    [picture] = tracker.client.list_artifacts(run, "samples")
    assert picture.path == "samples/step-000100.png"
    assert (tracker.settings.home / "mlflow.db").is_file()
    assert list((tracker.settings.home / "mlartifacts").rglob("step-000100.png"))


def test_a_home_of_any_name_leaves_nothing_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    home = tmp_path / "which? #1 100%"
    tracker = Tracker(Settings(home=home))
    run = tracker.begin("digits-vae-1", "digits-vae", PARAMETERS, TAGS)
    tracker.client.create_registered_model("digits")
    assert tracker.client.get_run(run).info.status == "RUNNING"
    assert (home / "mlflow.db").is_file()
    assert not list(here.iterdir())


def test_a_run_that_did_not_finish_is_reopened_and_a_finished_one_is_not(tracker: Tracker) -> None:
    first = tracker.begin("digits-vae-2", "digits-vae", PARAMETERS, TAGS)
    assert tracker.begin("digits-vae-2", "digits-vae", PARAMETERS, TAGS) == first
    for status in ("FAILED", "KILLED"):
        tracker.end(first, status)
        assert tracker.begin("digits-vae-2", "digits-vae", PARAMETERS, TAGS) == first
        assert tracker.client.get_run(first).info.status == "RUNNING"
    tracker.end(first, "FINISHED")
    assert tracker.begin("digits-vae-2", "digits-vae", PARAMETERS, TAGS) != first


def test_thousands_of_numbers_and_a_loss_that_is_nan_are_taken(tracker: Tracker) -> None:
    run = tracker.begin("digits-vae-3", "digits-vae", {f"p{n}": n for n in range(150)}, TAGS)
    tracker.log(run, {1: {f"loss/{number}": number for number in range(2500)} | {"loss/nan": float("nan")}})
    found = tracker.client.get_run(run).data
    assert (len(found.params), len(found.metrics)) == (150, 2501)


def test_a_server_that_is_down_is_named_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://ada:secret@127.0.0.1:{free.getsockname()[1]}"
    tracker = Tracker(Settings(home=tmp_path, tracking_uri=uri))
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"tracking store http://127\.0\.0\.1.*refused.*GENLOOM_TRACKING_URI"
    ) as said:
        tracker.begin("digits-vae-1", "digits-vae", PARAMETERS, TAGS)
    assert time.monotonic() - began < 30
    assert "secret" not in str(said.value)


def test_an_experiment_that_was_deleted_is_restored(tracker: Tracker) -> None:
    run = tracker.begin("digits-vae-first", "digits-vae", PARAMETERS, TAGS)
    tracker.client.delete_experiment(tracker.client.get_run(run).info.experiment_id)
    other = tracker.begin("digits-vae-second", "digits-vae", PARAMETERS, TAGS)
    assert tracker.client.get_run(other).info.lifecycle_stage == "active"


def test_a_run_that_was_deleted_is_one_sentence(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.begin("digits-vae-gone", "digits-vae", PARAMETERS, TAGS)
    tracker.client.delete_run(run)
    (tmp_path / "a.png").write_bytes(b"")
    for call in (
        lambda: tracker.log(run, {1: {"loss": 1.0}}),
        lambda: tracker.log("0" * 32, {1: {"loss": 1.0}}),
        lambda: tracker.picture("0" * 32, tmp_path / "a.png"),
        lambda: tracker.end("0" * 32, "FINISHED"),
    ):
        with pytest.raises(UserError, match="The tracking store"):
            call()


@pytest.mark.parametrize("uri", ["foo://bar", "sqlite:///{home}/broken.db"])
def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, uri: str) -> None:
    (tmp_path / "broken.db").write_text("This is no database. " * 500)
    with pytest.raises(UserError, match="The tracking store"):
        Tracker(Settings(home=tmp_path, tracking_uri=uri.format(home=tmp_path)))


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("foo", "maintenance mode and will not receive further updates"),
        ("foo://bar", "for model registry data storage"),
        ("sqlite:////proc/nope/log.db", "No such file or directory"),
    ],
)
def test_the_cause_is_a_whole_sentence(tmp_path: Path, uri: str, cause: str) -> None:
    with pytest.raises(UserError) as said:
        Tracker(Settings(home=tmp_path, tracking_uri=uri))
    message = str(said.value)
    assert f"{cause}); start or mend it" in message
    assert message.count("'") % 2 == 0
    assert message.count("(") == message.count(")")


BEGIN = """
import sys
from pathlib import Path
from components.settings import Settings
from components.tracking import Tracker
tracker = Tracker(Settings(home=Path(sys.argv[1])))
print(tracker.begin(sys.argv[2], "digits-vae", {"a": 1}, {"product": "digits"}))
"""


def test_two_processes_may_be_the_first_together_and_are_silent(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", BEGIN, str(tmp_path), name] for name in ("one", "two")]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [err for _, err in said] == ["", ""]
    client = MlflowClient(tracking_uri=Settings(home=tmp_path).tracking)
    assert {client.get_run(out.strip()).data.tags["genloom.run_id"] for out, _ in said} == {"one", "two"}
    assert len(client.search_experiments(filter_string="name = 'digits'")) == 1
