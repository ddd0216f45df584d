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

MODEL = "{halvings: 1, codebook: 16, width: 16, layers: 1, prior_width: 32, heads: 8}"
ROW = f"  digits-vqvae:  # small\n    {{product: digits, family: vqvae, model: {MODEL}, train: {{threads: 1}}}}\n"
ASKED = Asked(overrides=("train.ema=0.5",), over=("prior_width=25..39",), trials=3, steps=2, early=False)


@pytest.fixture
def ray_ends(project: Path) -> Iterator[None]:
    """The Ray that a search starts ends with the test."""
    yield
    cluster.disconnect(open_project().settings)


@pytest.mark.usefixtures("prefect_server", "ray_ends")
def test_the_best_settings_become_a_run_and_failures_are_named(project: Path) -> None:
    """The family refuses each width that its heads do not divide: of the range all but the run's own."""
    from flows.tune import tune

    with (project / "params.yaml").open("a", encoding="utf-8") as stream:
        stream.write(ROW)
    before = (project / "params.yaml").read_text(encoding="utf-8")
    found = tune(project, "digits-vqvae", ASKED, "digits-tuned")
    assert found.best == 1
    sweep = read_sweep(found.folder)
    assert sweep is not None
    assert (sweep.metric, sweep.better) == ("judge_frechet_distance", "lower"), "the product names none"
    assert [trial.state for trial in sweep.trials] == ["done", "failed", "failed"]
    assert sorted(sweep.trials[0].values) == [2], "measured at the end alone"
    for trial in sweep.trials[1:]:
        assert (
            f"model.width = {trial.settings['prior_width']} is not a multiple of twice the heads"
            in trial.reason
        )

    old, new = open_project().tables.runs["digits-vqvae"], open_project().tables.runs["digits-tuned"]
    assert new.model == {**old.model, "prior_width": 32}
    assert (new.train.steps, new.train.ema, new.train.threads) == (old.train.steps, 0.5, 1)
    after = (project / "params.yaml").read_text(encoding="utf-8")
    assert comments(after) == comments(before)
    the_run_log_has_the_trials(sweep.tracking_run)
    with pytest.raises(UserError, match=r"already a run “digits-tuned”"):
        tune(project, "digits-vqvae", ASKED, "digits-tuned")


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def the_run_log_has_the_trials(parent: str) -> None:
    client = Tracker(open_project().settings).client
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    states = {run.info.run_name: run.info.status for run in children}
    assert states == {f"digits-vqvae trial {n}": "FINISHED" if n == 1 else "FAILED" for n in (1, 2, 3)}
    first = next(run for run in children if run.info.run_name == "digits-vqvae trial 1")
    assert first.data.params == {"model.prior_width": "32"}
    assert {"val/judge_frechet_distance", "loss/autoencoder"} <= first.data.metrics.keys()


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
