"""The flow of a search: prepared data in, a row of params.yaml out, on a real Prefect server and Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components import cluster
from components.errors import UserError
from components.project import open_project
from components.tracking import Tracker
from components.tuning.records import read_sweep
from components.tuning.sweep import Asked

ASKED = Asked(
    overrides=("train.threads=1", "model.width=64"),
    over=("lr",),
    trials=2,
    steps=9,
    metric="nats",
    early=False,
)


@pytest.fixture
def ray_ends(project: Path) -> Iterator[None]:
    """The Ray that a search starts ends with the test."""
    yield
    cluster.disconnect(open_project().settings)


@pytest.mark.usefixtures("prefect_server", "ray_ends")
def test_the_best_settings_become_a_run(project: Path) -> None:
    from flows.tune import tune

    before = (project / "params.yaml").read_text(encoding="utf-8")
    found = tune(project, "digits-vae", ASKED, "digits-vae-tuned")
    assert found.best is not None
    sweep = read_sweep(found.folder)
    assert sweep is not None
    assert (sweep.metric, sweep.better) == ("judge_frechet_distance", "lower"), "the product names none"
    assert [trial.state for trial in sweep.trials] == ["done", "done"], "none is stopped early"
    assert [sorted(trial.values) for trial in sweep.trials] == [[9], [9]]

    old, new = open_project().tables.runs["digits-vae"], open_project().tables.runs["digits-vae-tuned"]
    assert sweep.best is not None
    assert new.model == {**old.model, "width": 64, **sweep.best.settings}
    assert (new.train.steps, new.train.threads) == (old.train.steps, 1)
    after = (project / "params.yaml").read_text(encoding="utf-8")
    assert [line for line in before.splitlines() if "#" in line] == [
        line for line in after.splitlines() if "#" in line
    ]
    the_run_log_has_the_trials(sweep.tracking_run)
    with pytest.raises(UserError, match=r"already a run “digits-vae-tuned”"):
        tune(project, "digits-vae", ASKED, "digits-vae-tuned")


def the_run_log_has_the_trials(parent: str) -> None:
    client = Tracker(open_project().settings).client
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_name for run in children} == {"digits-vae trial 1", "digits-vae trial 2"}
    assert all(
        run.info.status == "FINISHED" and "val/judge_frechet_distance" in run.data.metrics for run in children
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits-vea"], "There is no run “digits-vea”; did you mean digits-vae"),
        (
            ["digits-vae", "--over", "widht"],
            "There is no field of the family vae “widht”; did you mean width",
        ),
        (["digits-vae", "--over", "lr=3..2"], "The range 3..2 of lr is empty"),
        (["digits-vae", "--trials", "0"], "--trials is 0; ask for at least 1"),
        (
            ["digits-vae", "--metric", "judge_recal"],
            "There is no metric “judge_recal”; did you mean judge_recall",
        ),
        (["digits-vae", "--concurrent", "500"], "500 trials at once × 1 CPU each = 500 CPUs, and there are"),
        (["digits-vae", "--write", "digits-gan"], "There is already a run “digits-gan” in params.yaml"),
        (["digits-vae", "--write", "Tuned!"], "“Tuned!” is no good name"),
        (["shakespeare-gpt", "--set", "model.width=127"], "width"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_use_is_one_sentence(genloom: Callable[..., Any], arguments: list[str], said: str) -> None:
    done = genloom("tune", *arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
