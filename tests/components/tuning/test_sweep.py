"""Searches by a real Ray: trials are ordinary trainings, nothing is done twice, failures are named."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psutil
import pytest
from PIL import Image

from components import cluster
from components.artifact import read_manifest
from components.errors import FailedError, UserError
from components.project import open_project
from components.settings import Settings
from components.train.launch import train
from components.tuning.records import Sweep, Trial, read_sweep, sweep_folder
from components.tuning.space import assignments
from components.tuning.sweep import Asked, tune
from components.tuning.trial import folder_of

SET = ("train.threads=1", "model.width=64", "model.depth=1")
QUICK = Asked(
    overrides=SET, over=("lr=1e-4..1e-2", "latent=4..32"), trials=3, steps=18, metric="nats", minutes=30
)


pytestmark = pytest.mark.usefixtures("project")


@pytest.fixture(autouse=True, scope="module")
def ray_ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Ray that the first search starts ends with the file."""
    yield
    cluster.disconnect(Settings(home=tmp_path_factory.mktemp("home")))


def again(asked: Asked, **changed: object) -> tuple[Sweep, list[Trial]]:
    """The search, and what was told of it."""
    from dataclasses import replace

    heard: list[Trial] = []
    found = tune(
        open_project(), "digits-vae", replace(asked, **changed), lambda _, trial: heard.append(trial)
    )
    return found, heard


def test_what_no_trial_can_give_ends_the_search_at_once() -> None:
    asked = Asked(overrides=("train.threads=1",), over=("lr",), trials=3, steps=1, metric="nats")
    with pytest.raises(FailedError, match=r"nats needs a family that says how likely data are"):
        tune(open_project(), "digits-gan", asked)
    found = read_sweep(sweep_folder(open_project().settings, tune_name(asked)))
    assert found is not None
    assert found.over == 0


def test_a_search_tries_measures_and_goes_on() -> None:
    found, heard = again(QUICK)
    assert [trial.number for trial in found.trials] == [1, 2, 3]
    assert all(trial.over and trial.state != "failed" for trial in found.trials), found.trials
    assert (found.metric, found.better, found.rungs) == ("nats", "lower", (2, 6, 18))
    assert found.trials[0].settings == {"lr": 0.001, "latent": 16}, "the run as it is comes first"
    assert sorted(found.trials[0].values) == [2, 6, 18]
    assert found.best is not None
    assert found.best.value == min(trial.value for trial in found.trials if trial.state == "done")
    assert {trial.number for trial in heard} == {1, 2, 3}
    the_report_says_it(found)
    a_trial_is_an_ordinary_training(found)
    nothing_is_done_twice(found)
    what_was_interrupted_goes_on()


def the_report_says_it(found: Sweep) -> None:
    folder = sweep_folder(open_project().settings, found.name)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["split"] == "val"
    assert found.best is not None
    assert report["best"]["number"] == found.best.number
    assert report["command"].startswith("genloom retrain digits-vae --set train.threads=1")
    assert "train.steps" not in report["command"], "the run's own steps"
    with Image.open(folder / "trials.png") as picture:
        assert picture.width > 800
    assert not list(folder.glob("trials/*/checkpoints")), "nobody needs them any more"


def a_trial_is_an_ordinary_training(found: Sweep) -> None:
    """Stopping at rungs changes no bit: the weights are those of a training that was never stopped."""
    settings = open_project().settings
    first = found.trials[0]
    trial = read_manifest(
        sweep_folder(settings, found.name) / "trials" / folder_of(first.settings) / "artifact"
    )
    overrides = [*SET, *assignments(first.settings), "train.steps=18"]
    trained = train(open_project(), "digits-vae", overrides, workers=0)
    plain = read_manifest(trained.artifact)
    assert trial["files"] == plain["files"]
    assert trial["about"]["key"] == plain["about"]["key"]


def nothing_is_done_twice(found: Sweep) -> None:
    same, heard = again(QUICK)
    assert same.trials == found.trials
    assert heard == []


def what_was_interrupted_goes_on() -> None:
    def interrupt(sweep: Sweep, trial: Trial) -> None:
        if trial.values:
            raise KeyboardInterrupt

    asked = Asked(**{**vars(QUICK), "trials": 4})
    with pytest.raises(KeyboardInterrupt):
        tune(open_project(), "digits-vae", asked, interrupt)
    assert [child.name() for child in psutil.Process().children() if child.name() == "raylet"] == []
    name = tune_name(asked)
    left = read_sweep(sweep_folder(open_project().settings, name))
    assert left is not None
    assert (left.trials[-1].number, left.trials[-1].state) == (4, "running")
    found, heard = again(asked)
    assert {trial.number for trial in heard} == {4}
    assert found.trials[:3] == left.trials[:3]
    assert found.trials[3].settings == left.trials[3].settings
    assert found.trials[3].values[2] == left.trials[3].values[2]
    assert found.trials[3].over


def tune_name(asked: Asked) -> str:
    """The name of the only search that there is."""
    (folder,) = (open_project().settings.shared / "sweeps").iterdir()
    return folder.name


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trials": 0}, r"--trials is 0; ask for at least 1"),
        ({"minutes": 0.0}, r"--minutes is 0"),
        ({"seed": -1}, r"--seed is -1"),
        ({"metric": "natz"}, r"no metric “natz”; did you mean nats"),
        ({"searcher": "grid"}, r"no searcher “grid”"),
        ({"concurrent": 0}, r"--concurrent is 0"),
        ({"concurrent": 999}, r"999 trials at once × 1 CPU each = 999 CPUs, and there are"),
        ({"over": ("lrr",)}, r"did you mean lr"),
        ({"steps": 0}, r"train.steps"),
        ({"overrides": ("model.lr=1", "train.steps=3"), "over": ("lr",)}, r"both set and searched"),
    ],
)
def test_wrong_use_is_one_sentence_before_anything_starts(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        again(QUICK, **changed)
    assert error.value.exit_code == 2
    assert not (open_project().settings.shared / "sweeps").exists()
