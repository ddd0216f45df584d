"""Garbage that is weights: of trainings, trials, registrations, and local copies of versions."""

from __future__ import annotations

from collections.abc import Iterator

from components.ops.garbage import Garbage, View, changed_of
from components.ops.running import held
from components.ops.sources import version_folders
from components.promotion import ledger
from components.serving.applications import remembered
from components.serving.jobs import Jobs
from components.train.runs import RunRecord, read_runs
from components.tuning.records import Sweep, read_sweep


def last_use(record: RunRecord) -> float:
    """When a training was last worked on, or measured."""
    names = ("run.json", "progress.jsonl", "outcome.json", "evaluation/report.json")
    return changed_of(*(record.folder / name for name in names))


def checkpoints(view: View) -> Iterator[Garbage]:
    """Resume state of trainings that have ended."""
    for record in view.runs:
        folder = record.folder / "checkpoints"
        if folder.is_dir():
            state = "interrupted" if record.state == "running" else record.state
            why = f"its training is {state}"
            yield Garbage(
                "checkpoints", record.id, (folder,), last_use(record), why, (record.folder / "lock",)
            )


def artifacts(view: View) -> Iterator[Garbage]:
    """Models of trainings that no version came of."""
    named = {version.run_id for version in view.versions}
    for record in view.runs:
        if record.artifact.is_dir() and record.id not in named:
            registering = view.settings.shared / "locks" / f"{record.product}-register.lock"
            yield Garbage(
                "artifacts",
                record.id,
                (record.artifact,),
                last_use(record),
                "no version came of it",
                (record.folder / "lock", registering),
                lambda record=record: not _registered(view, record),  # type: ignore[misc]
            )


def _registered(view: View, record: RunRecord) -> bool:
    """Whether a version has come of the training meanwhile."""
    if record.product not in view.registry.products():
        return False
    return any(version.run_id == record.id for version in view.registry.versions(record.product))


def trials(view: View) -> Iterator[Garbage]:
    """Weights of the trials of searches, except for the best."""
    for folder in sorted((view.settings.shared / "sweeps").glob("*/")):
        sweep, lock = read_sweep(folder), folder / "lock"
        if sweep is None or held(lock):
            continue
        best = _best(sweep)
        for trial in sorted((folder / "trials").glob("*/")):
            weights = tuple(path for path in (trial / "artifact", trial / "checkpoints") if path.is_dir())
            if weights and trial.name != best:
                changed = changed_of(folder / "sweep.json", trial / "rungs.json")
                name = f"{folder.name}/{trial.name}"
                yield Garbage(
                    "trials", name, weights, changed, "another trial of the search is better", (lock,)
                )


def _best(sweep: Sweep) -> str:
    """The name of the folder of the best trial."""
    from components.tuning.trial import folder_of

    return "" if sweep.best is None else folder_of(sweep.best.settings)


def uploads(view: View) -> Iterator[Garbage]:
    """What an interrupted registration has left among the registry's files."""
    database, folder = view.settings.home / "mlflow.db", view.settings.home / "mlartifacts"
    if view.settings.tracking_uri or not database.is_file():
        return
    named = version_folders(database)
    for path in sorted(folder.glob("*/models/*/")):
        name = path.relative_to(folder).as_posix()
        if name not in named:
            yield Garbage(
                "uploads",
                name,
                (path,),
                changed_of(path, path / "artifacts"),
                "no version has these files",
                (view.settings.shared / "locks" / f"{name.partition('/')[0]}-register.lock",),
                lambda name=name: name not in version_folders(database),  # type: ignore[misc]
            )


def copies(view: View) -> Iterator[Garbage]:
    """Local copies of versions that are neither served nor about to be; the registry has the originals."""
    needed = set(_needed(view))
    for version in view.versions:
        if version.name in needed:
            continue
        home = view.settings.home
        for folder in (
            home / "models" / version.product / str(version.number),
            *(home / "reports" / version.product).glob(f"{version.number}-*/"),
        ):
            if folder.is_dir():
                lock = folder.with_name(f".{folder.name}.lock")
                name = folder.relative_to(home).as_posix()
                yield Garbage("copies", name, (folder,), changed_of(folder), "the registry has it", (lock,))


def _needed(view: View) -> Iterator[str]:
    """The names of the versions that somebody works with: aliases, trials, servers, jobs, trainings, the newest."""
    newest: dict[str, int] = {}
    for version in reversed(view.versions):
        newest[version.product] = newest.get(version.product, 0) + 1
        if version.aliases or newest[version.product] <= view.keep:
            yield version.name
    for product in ledger.products(view.settings):
        standing = ledger.standing(ledger.read(ledger.path_of(view.settings, product)))
        if standing.trial is not None:
            yield f"{product}/{standing.trial.version}"
        yield from (f"{product}/{number}" for number, _ in standing.champions[-2:])  # what a rollback goes to
    for application in remembered(view.settings):
        yield from (f"{served.product}/{served.version}" for served in application.served)
    yield from (f"{job.product}/{job.version}" for job in Jobs(view.settings.shared / "jobs").open())
    for record in read_runs(view.settings):
        if record.state == "running" and record.parameters.get("init"):
            yield str(record.parameters["init"])
