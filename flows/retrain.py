"""The flow `retrain`: prepare → train → evaluate → register → promote. Each task is safe to repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task
from prefect.runtime import flow_run

from components.errors import UserError
from flows.prepare import may_pass, prepare_dataset
from flows.progress import console, say, training_bar


@dataclass(frozen=True)
class Candidate:
    """A trained model that is to be judged; `version` is 0 until it is registered.

    `withdrawn` is why nobody may use it: then nothing is done with it.
    """

    product: str
    run_id: str
    tracking_run: str
    artifact: Path
    evaluation: Path
    steps: int
    version: int = 0
    withdrawn: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a retraining ended."""

    product: str
    run_id: str
    version: int
    trained: bool
    promoted: bool
    reasons: tuple[str, ...]
    champion: int | None


@task(name="train", retries=1, retry_delay_seconds=5, retry_condition_fn=may_pass)
def train_model(
    root: Path, run: str, overrides: Sequence[str], workers: int | None, fresh: bool
) -> tuple[Candidate, bool]:
    """Train, unless a registered version or a finished run carries the key; says whether it was trained."""
    from components.project import open_project
    from components.train.launch import train
    from components.train.wanted import plan_of

    project = open_project(root)
    wanted = plan_of(project, run, overrides)
    if not fresh and (known := _registered(root, wanted.row.product, wanted.key)) is not None:
        if known.withdrawn:
            say(f"trained    nothing: {known.withdrawn}")
            return known, False
        say(f"trained    {run} is version {known.product}/{known.version} already; --fresh trains it anyway")
        return known, False
    with training_bar(run, wanted.row.train.steps) as show:
        trained = train(project, run, overrides, workers, fresh, show)
    folder = trained.folder
    say(f"trained    {run}{' before' if trained.skipped else ''}: {folder}; pictures in {folder / 'samples'}")
    candidate = Candidate(
        product=wanted.row.product,
        run_id=trained.run_id,
        tracking_run=trained.tracking_run,
        artifact=trained.artifact,
        evaluation=trained.folder / "evaluation",
        steps=wanted.row.train.steps,
    )
    return candidate, not trained.skipped


def _registered(root: Path, product: str, key: str) -> Candidate | None:
    """The registered version that carries `key`, fetched unless it was withdrawn."""
    from components.project import open_project
    from components.promotion import revocation
    from components.promotion.registry import Registry

    registry = Registry(open_project(root).settings)
    found = registry.find(product, key)
    if found is None:
        return None
    standing = revocation.standing_of(registry.settings, product)
    if (line := standing.revoked.get(found.number)) is not None:
        mend = revocation.back(line, standing)
        why = (
            f"this training is {found.name}, and {revocation.told(line)}; change the data or the settings"
            f"{', or ' if mend else ''}{mend}"
        )
        nowhere = Path()
        return Candidate(product, found.run_id, found.tracking_run, nowhere, nowhere, 0, found.number, why)
    return Candidate(
        product=product,
        run_id=found.run_id,
        tracking_run=found.tracking_run,
        artifact=registry.fetch(found),
        evaluation=registry.pictures(found),
        steps=0,
        version=found.number,
    )


@task(name="evaluate", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def evaluate_model(root: Path, candidate: Candidate) -> None:
    """Measure the candidate on held-out data, and the champion again if its report is of other data."""
    from components.evaluation.project import evaluate_artifact
    from components.project import open_project
    from components.tracking import Tracker

    project = open_project(root)
    with console.status("evaluating") as status:
        report = evaluate_artifact(
            project, candidate.product, candidate.artifact, candidate.evaluation, status.update
        )
    if not candidate.version:
        found = {f"test/{name}": metric.value for name, metric in report.metrics.items()}
        try:
            Tracker(project.settings).log(candidate.tracking_run, {candidate.steps: found})
        except UserError as error:
            say(f"evaluated  the run log misses the metrics of {candidate.run_id}. {error}")
    first = next(iter(report.metrics))
    metric = report.metrics[first]
    say(
        f"evaluated  {candidate.run_id}: {first} {metric.value:.4g} [{metric.low:.4g}, {metric.high:.4g}]; "
        f"pictures in {candidate.evaluation}"
    )


@task(name="register", retries=2, retry_delay_seconds=2, retry_condition_fn=may_pass)
def register_model(root: Path, candidate: Candidate) -> Candidate:
    """Make the candidate a version of its product, the challenger."""
    from components.project import open_project
    from components.promotion.registry import Registry

    registry = Registry(open_project(root).settings)
    version = registry.register(
        candidate.artifact,
        candidate.evaluation,
        candidate.run_id,
        candidate.tracking_run,
        str(flow_run.id or ""),
    )
    say(f"registered {version.product}/{version.number}")
    return dataclasses.replace(candidate, version=version.number)


@task(name="promote", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def promote_model(root: Path, candidate: Candidate) -> tuple[bool, tuple[str, ...], int | None]:
    """Let the gate judge: whether it accepted, its reasons, and the champion's number afterwards."""
    from components.project import open_project
    from components.promotion.promote import promote

    project = open_project(root)
    decision = promote(
        project.settings,
        candidate.product,
        project.product(candidate.product),
        candidate.version,
        flow_run=str(flow_run.id or ""),
    )
    return decision.accepted, decision.reasons, champion_of(root, candidate.product)


def champion_of(root: Path, product: str) -> int | None:
    """The number of the product's champion."""
    from components.project import open_project
    from components.promotion.promote import champion

    now = champion(open_project(root).settings, product)
    return now.number if now else None


@task(name="evaluate-champion", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def evaluate_champion(root: Path, candidate: Candidate) -> None:
    """Measure the champion again if its report cannot be compared with the candidate's: other data, other judge.

    A champion that cannot be measured on the present data (text of another vocabulary) stays as it is, and the
    gate says so.
    """
    from components.evaluation.evaluate import UnfitError
    from components.evaluation.project import evaluate_version
    from components.evaluation.report import comparable, read_report
    from components.project import open_project
    from components.promotion.promote import champion
    from components.promotion.registry import Registry

    project = open_project(root)
    product = candidate.product
    now = champion(project.settings, product)
    report = read_report(candidate.evaluation / "report.json")
    if now is None or comparable(report, Registry(project.settings).report(now)):
        return
    try:
        with console.status("evaluating the champion") as status:
            evaluate_version(project, now, status.update)
    except UnfitError as error:
        say(f"evaluated  the champion {product}/{now.number} cannot be measured on the present data. {error}")
        return
    say(f"evaluated  the champion {product}/{now.number} again, in the same way")


@flow(name="retrain", flow_run_name="retrain-{run}", validate_parameters=False)
def retrain(
    root: Path,
    run: str,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    fresh: bool = False,
) -> Outcome:
    """Retrain `run` of the project at `root`; only a better model becomes champion, and a refusal is a success."""
    from components.project import open_project

    project = open_project(root)
    product = project.run(run, overrides).product
    prepare_dataset(root, project.product(product).dataset)
    candidate, trained = train_model(root, run, overrides, workers, fresh)
    if (
        candidate.withdrawn
    ):  # every night again, until somebody changes something: no failure, and no way back
        said = (candidate.withdrawn,)
        now = champion_of(root, product)
        return Outcome(product, candidate.run_id, candidate.version, False, False, said, now)
    evaluate_model(root, candidate)
    candidate = register_model(root, candidate)
    evaluate_champion(root, candidate)
    promoted, reasons, champion = promote_model(root, candidate)
    return Outcome(product, candidate.run_id, candidate.version, trained, promoted, reasons, champion)
