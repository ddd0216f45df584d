from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from components.artifact import About, save
from components.data.dataset import open_dataset
from components.errors import UserError
from components.families.gpt import GPT
from components.families.vae import VAE
from components.project import open_project
from components.promotion.registry import Registry
from components.tracking import Tracker
from components.train.runs import RunRecord, write_run
from flows.commands.evaluate import attach
from tests.components.evaluation.corpora import prepared

RUN = "digits-vae-0123456789"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file share one home, so that the judge is trained once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def say(
    project: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `genloom evaluate …` and give back what it prints; a finished run of an untrained model is there."""
    monkeypatch.setenv("GENLOOM_HOME", str(home))
    dataset = open_dataset(project / "data" / "prepared" / "digits")
    record = RunRecord(
        id=RUN,
        run="digits-vae",
        product="digits",
        family="vae",
        key="0" * 64,
        parameters={},
        dataset="digits",
        revision=dataset.revision,
        created="2026-01-01T00:00:00+00:00",
        workers=1,
        steps=0,
        pid=1,
        state="done",
        folder=home / "runs" / RUN,
    )
    if not record.folder.exists():
        write_run(record)
        family = VAE(latent=2, width=16)
        torch.manual_seed(0)
        about = About(
            product="digits",
            run="digits-vae",
            dataset="digits",
            revision=dataset.revision,
            licence=dataset.licence,
            source=dataset.source,
            classes=dataset.classes,
            modality="image",
            key=record.key,
            parameters={},
            commit="",
            dirty=False,
            steps=0,
        )
        save(record.artifact, family, family.networks(dataset.shape), dataset.shape, about)
    app = typer.Typer()
    attach(app)

    def call(*arguments: str) -> str:
        capfd.readouterr()
        typer.main.get_command(app).main(list(arguments), "genloom evaluate", standalone_mode=False)
        return capfd.readouterr().out

    return call


def test_a_run_is_evaluated_by_id_or_name_and_the_pictures_are_named(
    say: Callable[..., str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = home / "runs" / RUN / "evaluation"
    printed = say(RUN)
    for word in ("model", "baseline", "real", "judge_frechet_distance", "negative_elbo_nats"):
        assert word in printed
    assert f"picture: {folder / 'samples.png'}" in printed
    assert "1000 samples against" in printed
    before = (folder / "report.json").stat().st_mtime_ns
    assert say("digits-vae") == printed
    assert (folder / "report.json").stat().st_mtime_ns == before


def test_mlflow_gets_the_pictures_of_a_run(say: Callable[..., str], home: Path) -> None:
    tracker = Tracker(open_project().settings)
    tracking_run = tracker.begin(RUN, "digits-vae", {}, {"product": "digits"})
    path = home / "runs" / RUN / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tracking_run": tracking_run}))
    shutil.rmtree(home / "runs" / RUN / "evaluation", ignore_errors=True)
    pictures = {Path(name).name for name in json.loads(say("digits-vae", "--json"))["pictures"]}
    kept = tracker.client.list_artifacts(tracking_run, "evaluation")
    assert {Path(one.path).name for one in kept} == pictures
    assert "samples.png" in pictures


def test_a_run_that_mlflow_has_lost_is_evaluated_all_the_same(
    say: Callable[..., str], home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = home / "runs" / RUN / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tracking_run": "0" * 32}))
    assert "judge_frechet_distance" in say("digits-vae")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tracking_run": ""}))


def test_json_is_the_whole_report_with_the_pictures_paths(say: Callable[..., str], home: Path) -> None:
    content = json.loads(say("digits-vae", "--json"))
    assert content["metrics"]["judge_frechet_distance"]["better"] == "lower"
    assert content["protocol"]["samples"] == 1000
    assert len(content["pictures"]) == 5
    assert all(Path(path).is_file() for path in content["pictures"])


def test_a_version_is_evaluated_and_the_registry_gets_the_report(say: Callable[..., str], home: Path) -> None:
    say("digits-vae")
    registry = Registry(open_project().settings)
    run = home / "runs" / RUN
    registry.register(run / "artifact", run / "evaluation", RUN, "", "")
    content = json.loads(say("digits/1", "--json"))
    report = registry.report(registry.version("digits", 1))
    assert report.artifact == content["artifact"]
    assert report.seconds == content["seconds"]
    assert all(Path(path).is_file() for path in content["pictures"])


def test_what_is_not_there_is_named_with_the_nearest(say: Callable[..., str], home: Path) -> None:
    with pytest.raises(UserError, match="did you mean digits-vae-0123456789"):
        say("digits-vea")
    record = json.loads((home / "runs" / RUN / "run.json").read_text())
    (home / "runs" / "digits-gan-1").mkdir(exist_ok=True)
    half = record | {"id": "digits-gan-1", "run": "digits-gan", "state": "stopped"}
    (home / "runs" / "digits-gan-1" / "run.json").write_text(json.dumps(half))
    with pytest.raises(UserError, match="digits-gan-1 is stopped and has no model yet; type genloom train"):
        say("digits-gan-1")


def test_a_run_of_text_is_evaluated_and_its_texts_are_named(
    say: Callable[..., str], project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    functions = [f"def f{place % 3}():\n    return {place // 3}\n" for place in range(9)]
    splits = {"train": functions[::2], "val": functions[1:2], "test": functions[3::2]}
    shutil.rmtree(project / "data" / "prepared" / "code")
    dataset = prepared(project / "data" / "prepared" / "code", splits, 40, "code")
    family = GPT(layers=1, heads=2, kv_heads=2, width=16)
    record = RunRecord(
        **json.loads((home / "runs" / RUN / "run.json").read_text())
        | {"id": "code-gpt-0123456789", "run": "code-gpt", "product": "code", "dataset": "code"},
        folder=home / "runs" / "code-gpt-0123456789",
    )
    write_run(record)
    origin = json.loads((home / "runs" / RUN / "artifact" / "model.json").read_text())["about"]
    about = About(**origin | {"dataset": "code", "modality": "text", "classes": []})
    networks = family.networks(dataset.shape)
    save(record.artifact, family, networks, dataset.shape, about, dataset.folder)
    printed = say("code-gpt")
    for word in ("model", "baseline", "real", "bits_per_character", "parses", "length"):
        assert word in printed
    assert f"{3 * (len(functions[0]) + 1)} tokens of the test split of code; 500 samples beside 3" in printed
    assert "held-out pieces (real)" in printed
    assert f"picture: {record.evaluation / 'samples.txt'}" in printed
