"""The flow, task by task, against a real Prefect server and MLflow, training in process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.errors import UserError, WithdrawnError
from components.project import open_project
from components.promotion.promote import champion
from components.promotion.registry import Registry
from components.train.runs import read_runs

TINY = ["train.steps=40", "train.threads=1", "model.width=64"]


@pytest.mark.usefixtures("prefect_server")
def test_only_a_better_model_is_promoted_and_nothing_is_done_twice(project: Path) -> None:
    from flows.retrain import retrain

    first = retrain(project, "digits-vae", TINY, 0)
    assert (first.version, first.champion, first.promoted, first.trained) == (1, 1, True, True)

    again = retrain(project, "digits-vae", TINY, 0)
    assert (again.version, again.champion, again.promoted, again.trained) == (1, 1, False, False)
    assert "already champion" in again.reasons[0]
    assert len(read_runs(open_project().settings)) == 1

    worse = retrain(project, "digits-vae", ["train.steps=1", *TINY[1:]], 0)
    assert (worse.version, worse.champion, worse.promoted) == (2, 1, False), "a refusal is a success"

    better = retrain(project, "digits-vae", ["train.steps=600", *TINY[1:]], 0)
    assert (better.version, better.champion, better.promoted) == (3, 3, True)
    the_lineage_is_whole(better.run_id)
    the_next_run_can_start_from_it(project)
    other_judgement_means_evaluating_again(project)
    it_is_reproduced_bit_for_bit(project)
    a_withdrawn_training_does_not_come_back(project)


def the_lineage_is_whole(run_id: str) -> None:
    settings = open_project().settings
    version = Registry(settings).version("digits", "champion")
    assert version.run_id == run_id
    assert version.flow_run
    assert version.revision == read_runs(settings)[0].revision
    assert version.parameters["train"]["steps"] == 600
    report = Registry(settings).report(version)
    assert next(iter(report.metrics)) == "judge_frechet_distance"
    assert report.metrics["judge_frechet_distance"].value < report.baseline["judge_frechet_distance"].value


def the_next_run_can_start_from_it(project: Path) -> None:
    from components.train.launch import train
    from components.train.runs import load_run, read_progress
    from components.train.wanted import plan_of

    overrides = ["init=digits/3", "train.steps=10", "train.log_every=10", *TINY[1:]]
    started = train(open_project(), "digits-vae", overrides, workers=0)
    cold = train(open_project(), "digits-vae", overrides[1:], workers=0)
    losses = [read_progress(load_run(run.folder))[-1]["loss/autoencoder"] for run in (started, cold)]
    assert losses[0] < losses[1] - 0.1
    assert (
        plan_of(open_project(), "digits-vae", overrides).key
        != plan_of(open_project(), "digits-vae", overrides[1:]).key
    )
    with pytest.raises(UserError, match=r"do not fit the network"):
        train(open_project(), "digits-vae", ["init=digits/3", "train.steps=10", "model.width=128"], workers=0)
    with pytest.raises(UserError, match=r"digits/9"):
        train(open_project(), "digits-vae", ["init=digits/9"], workers=0)


def other_judgement_means_evaluating_again(project: Path) -> None:
    """A champion whose report is of another protocol is measured again instead of blocking everything."""
    from components.evaluation import featured
    from flows.retrain import retrain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featured, "FEWEST", 2_000)
        outcome = retrain(project, "digits-vae", ["train.steps=2", *TINY[1:]], 0)
    assert outcome.champion == 3
    assert "comparable" not in " ".join(outcome.reasons)
    now = champion(open_project().settings, "digits")
    assert now is not None
    assert Registry(open_project().settings).report(now).protocol["samples"] == 2_000


def it_is_reproduced_bit_for_bit(project: Path) -> None:
    """From what the registry knows of it, whatever params.yaml says now."""
    from components.train.reproduce import reproduce

    now = open_project()
    found = reproduce(now, Registry(now.settings).version("digits", 1))
    assert found.same
    assert (found.distance, found.reasons) == (0.0, ())
    assert found.run_id.startswith("reproduce-digits-1-")
    other = dataclasses.replace(Registry(now.settings).version("digits", 2), number=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "fetch", lambda *_: Registry(now.settings).copy_of(other))
        differs = reproduce(now, other)
    assert not differs.same, "the weights of another training"
    assert differs.distance > 0


def a_withdrawn_training_does_not_come_back(project: Path) -> None:
    from components.promotion.withdraw import withdraw
    from components.train.launch import train
    from flows.retrain import retrain

    settings = open_project().settings
    withdraw(settings, Registry(settings).version("digits", 1), "it repeats a digit", data="digits@none")
    count = len(read_runs(settings))
    night = retrain(project, "digits-vae", TINY, 0)
    assert (night.version, night.champion, night.promoted, night.trained) == (1, 3, False, False)
    assert "this training is digits/1, and digits/1 was withdrawn" in night.reasons[0]
    assert "it repeats a digit" in night.reasons[0]
    assert len(read_runs(settings)) == count
    with pytest.raises(WithdrawnError, match="it repeats a digit"):
        train(open_project(), "digits-vae", ["init=digits/1", "train.steps=10", *TINY[1:]], workers=0)
    third = Registry(settings).version("digits", 3)
    withdraw(settings, third, "its data may not be used", data=f"digits@{third.revision}")
    with pytest.raises(WithdrawnError, match=r"The data digits at revision .* may not be used"):
        retrain(project, "digits-vae", ["train.steps=30", *TINY[1:]], 0)


@pytest.mark.usefixtures("prefect_server")
def test_wrong_use_is_not_tried_again(project: Path) -> None:
    from flows.retrain import retrain

    with pytest.raises(UserError, match=r"train\.batch is 9999"):
        retrain(project, "digits-vae", ["train.batch=9999"], 0)


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_prepare_names_the_revision(project: Path) -> None:
    from flows.prepare import prepare

    revisions = prepare(project, ["digits"])
    assert list(revisions) == ["digits"]
    assert len(revisions["digits"]) >= 40
