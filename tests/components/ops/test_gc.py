"""Garbage: what goes, what stays, and that a training beside it notices nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from components.errors import UserError
from components.ops.gc import collect, find
from components.promotion.registry import Registry
from components.serving.jobs import Jobs, State
from components.train.runs import load_run, read_run, read_runs
from tests.components.ops.conftest import Site, small, version
from tests.components.ops.test_backup import queued
from tests.until import until

AGED = time.time() - 40 * 86_400
MONTH = timedelta(days=30)


def age(folder: Path) -> None:
    """Have everything in `folder` be of forty days ago."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (AGED, AGED), follow_symlinks=False)


def names(site: Site, kind: str, keep: int = 1, old: timedelta = MONTH) -> list[str]:
    return [one.name for one in find(site.project, old, keep, [kind])]


def test_nothing_goes_that_is_new_or_among_the_last(site: Site) -> None:
    assert find(site.project, MONTH, 1) == []
    age(site.root / ".genloom")
    assert names(site, "checkpoints", keep=4) == []
    assert names(site, "artifacts", keep=4) == []
    with pytest.raises(UserError, match="There is no kind of garbage “checkpoint”; did you mean checkpoints"):
        names(site, "checkpoint")
    with pytest.raises(UserError, match="at least its last training stays"):
        names(site, "checkpoints", keep=0)


def test_weights_go_unless_a_version_came_of_them(site: Site) -> None:
    project = site.project
    age(site.root / ".genloom")
    records = read_runs(project.settings)
    newest, third, *rest = records  # the newest first; a version came of each of the last two
    assert newest.id == site.stopped.name
    assert set(names(site, "checkpoints")) == {one.id for one in records[1:]}
    assert names(site, "artifacts") == [third.id]
    found = find(project, MONTH, 1, ["checkpoints", "artifacts"])
    sizes = sum(one.size for one in found)
    before = size(project.settings.runs)
    done = collect(project, found)
    assert done.stayed == ()
    assert before - size(project.settings.runs) == done.freed == sizes > 0
    assert all((one.artifact / "model.json").is_file() for one in rest)
    assert not third.artifact.exists()
    assert (site.stopped / "checkpoints").is_dir()
    assert {one.id for one in read_runs(project.settings)} == {one.id for one in records}, "the list stays"
    assert find(project, MONTH, 1, ["checkpoints", "artifacts"]) == []
    registry = Registry(project.settings)
    registry.fetch(registry.version("digits", "champion"))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_used_between_looking_and_removing_stays(site: Site) -> None:
    project = site.project
    age(site.root / ".genloom")
    found = find(project, MONTH, 1, ["checkpoints"])
    locked, touched = (project.settings.runs / one.name for one in found[:2])
    (next((touched / "checkpoints").iterdir()) / "state.json").touch()
    with FileLock(locked / "lock"):
        done = collect(project, found)
    assert {one.name for one in done.stayed} == {locked.name, touched.name}
    assert (locked / "checkpoints").is_dir()
    assert (touched / "checkpoints").is_dir()
    assert [one.name for one in done.removed] == [one.name for one in found[2:]]


TRAIN = """
from components.project import open_project
from components.train.launch import train

steps = ["train.steps=100000", "train.checkpoint_every=20", "train.log_every=10", "train.threads=1"]
train(open_project(), "digits-vae", steps, workers=0)
"""


def test_a_training_that_runs_notices_nothing(site: Site) -> None:
    """By a real training in a process of its own, whose every file is old."""
    project = site.project
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN], cwd=site.root, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: any(record.state == "running" for record in read_runs(project.settings)), 200)
        folder = read_run(project.settings, "digits-vae").folder
        until(lambda: any(folder.glob("checkpoints/*/state.json")) or process.poll() is not None, 200)
        age(project.settings.runs)
        found = find(project, timedelta(0), 1)
        assert folder.name not in {one.name for one in found}
        others = [one for one in found if one.kind == "checkpoints"]
        assert len(others) == 4, "the stopped one is not the newest any more"
        assert collect(project, found).stayed == ()
        steps = read_steps(folder)
        until(lambda: read_steps(folder) > steps + 40 or process.poll() is not None, 200)
    finally:
        (folder / "stop").touch()
        _, said = process.communicate(timeout=200)
    assert "stopped by request" in " ".join(said.split()), said
    assert load_run(folder).state == "stopped"
    assert any(folder.glob("checkpoints/*/state.json"))


def read_steps(folder: Path) -> int:
    lines = (folder / "progress.jsonl").read_bytes().splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0


def test_copies_of_versions_that_nobody_serves_are_fetched_again(site: Site) -> None:
    project = site.project
    registry = Registry(project.settings)
    version(project, small(project, 3), 30.0)
    folders = [registry.fetch(one) for one in registry.versions("digits")]
    age(site.root / ".genloom")
    assert names(site, "copies", keep=2) == []
    found = find(project, MONTH, 1, ["copies"])
    assert [one.name for one in found] == ["models/digits/2"], "not the champion, nor the challenger"
    assert collect(project, found).stayed == ()
    assert [folder.is_dir() for folder in folders] == [True, False, True]
    assert registry.fetch(registry.version("digits", 2)) == folders[1]
    assert folders[1].is_dir()


def test_judges_of_data_that_are_gone(site: Site) -> None:
    cache = site.project.settings.shared / "cache"
    (manifest,) = site.project.prepared.glob("digits/dataset.json")
    revision = json.loads(manifest.read_text())["revision"]
    (cache / "val").mkdir(parents=True)
    for name in (f"judge-1-{revision}", f"judge-1-{'0' * 64}", f"val/pca-1-{'f' * 64}"):
        (cache / f"{name}.safetensors").write_bytes(b"weights")
    age(cache)
    found = find(site.project, MONTH, 1, ["judges"])
    assert [one.name for one in found] == [
        f"judge-1-{'0' * 64}.safetensors",
        f"val/pca-1-{'f' * 64}.safetensors",
    ]
    with FileLock(cache / f"judge-1-{'0' * 64}.lock"):
        done = collect(site.project, found)
    assert [one.name for one in done.stayed] == [found[0].name]
    assert (cache / f"judge-1-{revision}.safetensors").is_file()


def test_prepared_revisions_that_nothing_names(site: Site) -> None:
    """A revision in DVC's cache from before goes, with the files that only it has; the present one is checked out."""
    cache = site.root / ".dvc" / "cache" / "files" / "md5"
    listed = next(
        path for path in cache.glob("??/*.dir") if '"dataset.json"' in path.read_text() and is_digits(path)
    )
    rows = json.loads(listed.read_text())
    manifest = next(row for row in rows if row["relpath"] == "dataset.json")
    old = json.loads((cache / manifest["md5"][:2] / manifest["md5"][2:]).read_text()) | {"revision": "0" * 64}
    changed = enter(cache, json.dumps(old).encode())
    others = [row for row in rows if row is not manifest]
    earlier = enter(
        cache, json.dumps([*others, {**manifest, "md5": changed.parent.name + changed.name}]).encode(), ".dir"
    )
    age(cache)
    os.utime(listed)
    assert names(site, "prepared", keep=2) == []
    found = find(site.project, MONTH, 1, ["prepared"])
    assert [one.name for one in found] == ["digits@0000000000"]
    assert set(found[0].paths) == {earlier, changed}
    collect(site.project, found)
    assert not earlier.exists()
    assert not changed.exists()
    shutil.rmtree(site.project.prepared / "digits")
    from components.data.stages import checkout

    checkout(site.project, "digits")


def is_digits(listed: Path) -> bool:
    row = next(row for row in json.loads(listed.read_text()) if row["relpath"] == "dataset.json")
    file = listed.parent.parent / row["md5"][:2] / row["md5"][2:]
    return bool(json.loads(file.read_text())["name"] == "digits")


def enter(cache: Path, content: bytes, ending: str = "") -> Path:
    """Put a content into DVC's cache."""
    digest = hashlib.md5(content).hexdigest()
    path = cache / digest[:2] / (digest[2:] + ending)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_jobs_logs_and_what_was_never_finished(site: Site) -> None:
    settings = site.project.settings
    for _ in range(3):
        queued(site.project)
    jobs = Jobs(settings.shared / "jobs")
    kept, cancelled, failed = jobs.ids()
    jobs.cancel(cancelled)
    jobs.keep(failed, State(status="failed", finished=1.0))
    half = [
        settings.home / name for name in (".mlflow.db-0a1b2c3d", "runs/.x-old-0a1b2c3d", ".backup-ab12cd_x")
    ]
    for folder in half:
        folder.mkdir()
    (settings.home / "serve").mkdir()
    (settings.home / "serve" / "server.log").write_text("served\n")
    left = settings.shared / "ray" / f"{site.stopped.name}-0a1b2c3d"
    left.mkdir(parents=True)
    age(settings.home)
    with FileLock(site.stopped / "lock"):
        assert names(site, "ray") == []
    found = find(site.project, MONTH, 1, ["jobs", "logs", "ray", "drafts"])
    mine = [one for one in found if one.paths[0].is_relative_to(settings.home)]
    assert {(one.name, one.why) for one in mine if one.kind == "jobs"} == {
        (cancelled, "it was cancelled"),
        (failed, "it failed"),
    }
    assert {path for one in mine if one.kind == "drafts" for path in one.paths} == set(half)
    assert [one.name for one in mine if one.kind == "logs"] == ["serve/server.log"]
    assert [one.paths for one in mine if one.kind == "ray"] == [(left,)]
    assert collect(site.project, mine).stayed == ()
    assert jobs.ids() == [kept]
    assert not any(path.exists() for path in (*half, left))


def test_files_of_a_registration_that_was_interrupted(site: Site) -> None:
    models = site.project.settings.home / "mlartifacts" / "digits" / "models"
    assert len(list(models.iterdir())) == 2
    (models / "m-lost" / "artifacts").mkdir(parents=True)
    age(models)
    assert names(site, "uploads") == ["digits/models/m-lost"]
    collect(site.project, find(site.project, MONTH, 1, ["uploads"]))
    assert len(list(models.iterdir())) == 2
