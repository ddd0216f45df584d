"""Backup and restore: another machine, another path, the same bits; and nothing half made is taken for a backup."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import threading
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from components.artifact import load
from components.errors import UserError, WithdrawnError
from components.families.family import Requests
from components.labels import credentials
from components.ops import store
from components.ops.backup import back_up, parts_of
from components.ops.last import last_backup
from components.ops.restore import check, restore
from components.ops.snapshot import Snapshot, read_manifest
from components.project import Project, open_project
from components.promotion.promote import promote, rollback, verify
from components.promotion.registry import Registry
from components.promotion.revocation import status_of
from components.promotion.withdraw import restore as undo
from components.promotion.withdraw import withdraw
from components.serving.jobs import Job, Jobs, new_id
from components.serving.keys import keyring
from components.settings import Settings, read_settings
from components.train.launch import train
from components.train.runs import load_run, read_progress
from tests.components.ops.conftest import RECORD, Site
from tests.components.train.test_local import SMALL, equal, weights
from tests.until import until

USUAL = parts_of((), ())


def take(project: Project, target: Path, *more: str, keep: int | None = None) -> Snapshot:
    return back_up(project, target, parts_of((), more), keep).snapshot


def put(root: Path, source: Path, over: bool = False, at: str | None = None) -> Settings:
    settings = read_settings(root)
    restore(root, settings, source, at, over)
    return settings


def drawn(settings: Settings) -> torch.Tensor:
    """What the champion draws by four seeds."""
    registry = Registry(settings)
    model = load(registry.fetch(registry.version("digits", "champion")))
    return model.sample(Requests(seed=torch.arange(4)))


@pytest.mark.parametrize("name", ["backups", "backup.tar.gz"])
def test_a_project_goes_on_elsewhere_as_if_nothing_had_happened(
    site: Site, elsewhere: Path, tmp_path: Path, name: str
) -> None:
    project, target = site.project, tmp_path / name
    queued(project)
    expected, lines = drawn(project.settings), verify(project.settings, "digits")
    take(project, target, "checkpoints", "jobs")
    shutil.move(site.root, tmp_path / "gone")  # whatever still names the old place finds nothing there
    restored = restore(elsewhere, read_settings(elsewhere), target)
    settings = restored.snapshot and read_settings(elsewhere)
    assert restored.ledgers == {"digits": lines}
    assert torch.equal(drawn(settings), expected)
    assert [version.aliases for version in Registry(settings).versions("digits")] == [
        ("champion",),
        ("challenger",),
    ]
    held = keyring(settings).holder(site.secret)
    assert held is not None
    assert held.name == "shop"
    assert (settings.home / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (settings.home / "records" / "digits" / "2026-11-20.jsonl").read_text() == RECORD
    assert (elsewhere / "schedule.yaml").is_file()
    (job,) = Jobs(settings.shared / "jobs").open()
    assert job.artifact == settings.home / "models" / "digits" / "1"
    assert job.artifact.is_dir()
    assert not named_in(settings.home, str(site.root))
    goes_on(elsewhere, tmp_path / "gone", site.stopped.name)


def queued(project: Project) -> None:
    """A bulk job that nobody has begun."""
    registry = Registry(project.settings)
    champion = registry.version("digits", "champion")
    job = Job(
        id=new_id(),
        created=1.0,
        key=None,
        product="digits",
        version=champion.number,
        digest=champion.digest,
        artifact=registry.fetch(champion),
        media_type="image/png",
        n=10,
        seed=0,
        request={},
        rows=128,
        at_once=16,
        workers=1,
    )
    Jobs(project.settings.shared / "jobs").create(job)


def named_in(home: Path, place: str) -> list[str]:
    """The columns of the run log's database in which a path occurs."""
    found = []
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, *_ in database.execute(f"PRAGMA table_info('{table}')").fetchall():
                query = f'SELECT count(*) FROM "{table}" WHERE instr(CAST("{column}" AS TEXT), ?)'
                if database.execute(query, (f"{place}/.genloom",)).fetchone()[0]:
                    found.append(f"{table}.{column}")
    return found


def goes_on(root: Path, old: Path, name: str) -> None:
    """The stopped training ends with the weights that it has where it was begun."""
    folder = read_settings(root).runs / name
    before = read_progress(load_run(folder))
    assert 30 <= before[-1]["step"] < 60
    there = train(open_project(root), "digits-vae", SMALL, workers=0)
    assert there.folder == folder
    after = read_progress(load_run(folder))
    assert after[: len(before)] == before, "it went on and did not begin anew, whose seconds would be others"
    assert after[-1]["step"] == 60
    here = train(open_project(old), "digits-vae", SMALL, workers=0)
    assert here.run_id == there.run_id
    assert equal(weights(here), weights(there))


def test_a_folder_takes_in_only_what_is_new(site: Site, tmp_path: Path) -> None:
    project, target = site.project, tmp_path / "backups"
    first = back_up(project, target, USUAL)
    before = {path.name: path.stat().st_mtime_ns for path in (target / "objects").glob("??/*")}
    second = back_up(project, target, USUAL)
    databases = sum(entry.size for entry in second.snapshot.files if entry.path.endswith((".db", ".jsonl")))
    assert 0 < second.copied <= databases < first.copied
    assert {entry.path for entry in second.snapshot.files} == {entry.path for entry in first.snapshot.files}
    after = {path.name: path.stat().st_mtime_ns for path in (target / "objects").glob("??/*")}
    assert before.items() <= after.items(), "what was there was not written again"
    same = [entry for entry in first.snapshot.files if entry.path.endswith("networks.safetensors")]
    assert len({entry.sha256 for entry in same}) < len(same), (
        "a training's model and the version's are one content"
    )
    last = last_backup(project.settings)
    assert last is not None
    assert last.target == target


def test_older_backups_are_removed_with_what_only_they_have(site: Site, tmp_path: Path) -> None:
    project, target = site.project, tmp_path / "backups"
    only = project.settings.shared / "records" / "digits" / "2026-11-21.jsonl"
    only.write_text("gone soon\n")
    first = take(project, target)
    only.unlink()
    second = take(project, target)
    assert store.names(target) == [first.name, second.name]
    made = back_up(project, target, USUAL, keep=2)
    assert store.names(target) == [second.name, made.snapshot.name]
    assert made.freed >= len("gone soon\n")
    for name in store.names(target):
        check(target, name)
    with pytest.raises(UserError, match="There is no backup"):
        check(target, first.name)


def test_a_tar_is_a_folder_of_backups_once_it_is_unpacked(site: Site, tmp_path: Path) -> None:
    snapshot = take(site.project, tmp_path / "backup.tar")
    assert (tmp_path / "backup.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "backup.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert check(tmp_path / "unpacked") == check(tmp_path / "backup.tar") == snapshot


@pytest.mark.parametrize("name", ["backups", "backup.tar"])
def test_a_half_made_backup_is_none(site: Site, tmp_path: Path, name: str) -> None:
    project, target = site.project, tmp_path / name

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(project, target, USUAL, progress=killed)
    with pytest.raises(UserError, match=r"holds no whole backup|There is no backup"):
        check(target)
    assert not list(tmp_path.glob(".backup*"))
    assert not list(project.settings.home.glob(".backup-*"))
    take(project, target)
    check(target)


def harm(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def largest(target: Path) -> Path:
    return max((target / "objects").glob("??/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (lambda target: harm(largest(target)), "The content of home/mlflow.db in the backup .* was altered"),
        (
            lambda target: largest(target).unlink(),
            "The content of home/mlflow.db in the backup .* is missing",
        ),
        (
            lambda target: harm(next((target / "snapshots").iterdir())),
            "The manifest of the backup .* was altered",
        ),
        (lambda target: shutil.rmtree(target / "snapshots"), "holds no whole backup"),
    ],
)
def test_a_backup_that_is_not_whole_is_refused(
    site: Site, elsewhere: Path, tmp_path: Path, what, sentence: str
) -> None:
    target = tmp_path / "backups"
    take(site.project, target)
    what(target)
    with pytest.raises(UserError, match=sentence):
        put(elsewhere, target)
    assert not (elsewhere / ".genloom").exists()
    assert not list(elsewhere.glob(".genloom*"))


def test_a_tar_that_was_cut_off_is_refused(site: Site, elsewhere: Path, tmp_path: Path) -> None:
    for name in ("backup.tar", "backup.tgz"):
        target = tmp_path / name
        take(site.project, target)
        content = target.read_bytes()
        target.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="is no whole backup"):
            put(elsewhere, target)
    with pytest.raises(UserError, match="There is no backup"):
        put(elsewhere, tmp_path / "nowhere")


def test_paths_that_leave_the_project_are_no_manifest() -> None:
    for path in ("home/../../etc/passwd", "/etc/passwd", "elsewhere/x", "home"):
        entry = {"path": path, "sha256": "0" * 64, "size": 0, "mode": 420, "changed": [0, 0]}
        with pytest.raises(UserError, match="was altered"):
            read_manifest(json.dumps({"format": 1, "digest": "", "files": [entry]}).encode(), "here")
    with pytest.raises(UserError, match="has the format 2"):
        read_manifest(b'{"format": 2, "digest": ""}', "here")


def test_what_is_there_is_refused_or_set_aside(site: Site, tmp_path: Path) -> None:
    project, target = site.project, tmp_path / "backups"
    take(project, target)
    expected = drawn(project.settings)
    promote(project.settings, "digits", project.product("digits"), 2, force=True)
    (project.settings.home / "downloads").mkdir()
    params = site.root / "params.yaml"
    changed = params.read_text() + "# changed\n"
    params.write_text(changed)
    with pytest.raises(UserError, match=r"is not empty, it holds .*give --over to set it aside"):
        put(site.root, target)
    assert not torch.equal(drawn(project.settings), expected)
    restored = restore(site.root, project.settings, target, over=True)
    assert torch.equal(drawn(project.settings), expected)
    (aside,) = restored.set_aside
    assert (aside / "mlflow.db").is_file()
    assert (aside / "project" / "params.yaml").read_text() == changed
    assert not params.read_text().endswith("# changed\n")
    assert (project.settings.home / "downloads").is_dir(), "what only this machine has stays"


@pytest.mark.parametrize("purge", [False, True])
def test_an_older_backup_is_no_way_back_for_what_was_withdrawn(
    site: Site, elsewhere: Path, tmp_path: Path, purge: bool
) -> None:
    project, target = site.project, tmp_path / "backups"
    settings = project.settings
    promote(settings, "digits", project.product("digits"), 2, force=True)
    take(project, target)
    withdraw(settings, Registry(settings).version("digits", 2), "it repeats a photograph", purge=purge)
    withdraw(settings, Registry(settings).version("digits", 1), "of before")
    undo(settings, Registry(settings).version("digits", 1), "it does not")
    restored = restore(site.root, settings, target, over=True)
    assert restored.withdrawn == ("digits/2",)
    assert restored.purged == (("digits/2",) if purge else ())
    status = status_of(settings, "digits", 2)
    assert (status.state, status.why) == ("withdrawn", "it repeats a photograph")
    assert Registry(settings).version("digits", "champion").number == 1
    assert verify(settings, "digits") == restored.ledgers["digits"]
    with pytest.raises(WithdrawnError):
        Registry(settings).fetch(Registry(settings).version("digits", 2))
    there = restore(elsewhere, read_settings(elsewhere), target)
    assert there.withdrawn == (), "where nobody knows of it"


def test_the_key_of_labels_stays_unless_the_backup_has_one(
    site: Site, elsewhere: Path, tmp_path: Path
) -> None:
    folder = credentials.folder_of(site.project.settings)
    folder.mkdir()
    signing(folder, "of then")
    take(site.project, tmp_path / "with", "labels")
    signing(folder, "of now")
    take(site.project, tmp_path / "without")
    restored = restore(site.root, site.project.settings, tmp_path / "without", over=True)
    assert restored.key == folder / credentials.KEY
    assert {path.read_text() for path in folder.iterdir()} == {"of now"}
    assert (folder / credentials.KEY).stat().st_mode & 0o777 == 0o600
    (aside,) = restored.set_aside
    assert (aside / "labels" / credentials.KEY).is_file(), "what is set aside is whole"
    assert restore(elsewhere, read_settings(elsewhere), tmp_path / "without").key is None
    assert restore(site.root, site.project.settings, tmp_path / "with", over=True).key is None
    assert {path.read_text() for path in folder.iterdir()} == {"of then"}


def signing(folder: Path, text: str) -> None:
    """A key with its certificates, all of which hold `text`."""
    for name in (credentials.KEY, credentials.CERTIFICATE, credentials.KNOWN):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)


def test_files_of_the_project_stay_unless_over(site: Site, elsewhere: Path, tmp_path: Path) -> None:
    take(site.project, tmp_path / "backups")
    params = elsewhere / "params.yaml"
    params.write_text(params.read_text() + "# of this machine\n")
    restored = restore(elsewhere, read_settings(elsewhere), tmp_path / "backups")
    assert restored.stayed == ("params.yaml",)
    assert params.read_text().endswith("# of this machine\n")


def test_nothing_is_restored_beside_a_training(site: Site, tmp_path: Path) -> None:
    take(site.project, tmp_path / "backups")
    with (
        FileLock(site.stopped / "lock"),
        pytest.raises(UserError, match=f"the training {site.stopped.name} .* runs"),
    ):
        put(site.root, tmp_path / "backups", over=True)
    put(site.root, tmp_path / "backups", over=True)


def test_storage_of_its_own_goes_to_a_storage_or_into_the_home(
    site: Site, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = site.root / ".genloom"
    (tmp_path / "storage").mkdir()
    for name in ("runs", "ledger", "keys.json", "records"):
        shutil.move(home / name, tmp_path / "storage" / name)
    with monkeypatch.context() as patch:
        patch.setenv("GENLOOM_STORAGE", str(tmp_path / "storage"))
        take(site.project, tmp_path / "backups")
    settings = put(elsewhere, tmp_path / "backups")
    assert keyring(settings).holder(site.secret) is not None
    assert settings.runs.parent == settings.home
    monkeypatch.setenv("GENLOOM_STORAGE", str(tmp_path / "there" / "storage"))
    shutil.rmtree(elsewhere / ".genloom")
    settings = put(elsewhere, tmp_path / "backups")
    assert (tmp_path / "there" / "storage" / "keys.json").is_file()
    assert not (settings.home / "keys.json").exists()
    verify(settings, "digits")


def test_the_private_key_is_there_only_if_it_is_asked_for(
    site: Site, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode in (("cert", 0o644), ("key", 0o600)):
        path = tmp_path / f"{name}.pem"
        path.write_text(name)
        path.chmod(mode)
        monkeypatch.setenv(f"GENLOOM_TLS_{name.upper()}", str(path))
    snapshot = take(site.project, tmp_path / "backups")
    assert not [entry for entry in snapshot.files if entry.path.startswith("tls/")]
    take(site.project, tmp_path / "backups", "tls")
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "backups" / "objects").glob("??/*"))
    settings = put(elsewhere, tmp_path / "backups")
    assert (settings.home / "tls" / "key.pem").read_text() == "key"
    assert (settings.home / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_backups_taken_while_champions_move_are_of_one_moment(
    site: Site, elsewhere: Path, tmp_path: Path
) -> None:
    """A ledger is never of another time than the registry, however fast versions are promoted."""
    project, over = site.project, threading.Event()
    moves = 0

    def move() -> None:
        nonlocal moves
        while not over.is_set():
            promote(project.settings, "digits", project.product("digits"), 2, force=True)
            rollback(project.settings, "digits")
            moves += 1

    thread = threading.Thread(target=move)
    thread.start()
    try:
        taken = []
        for _ in range(4):
            before = moves  # the first backup may have waited for many
            until(lambda: moves > before)  # noqa: B023
            taken.append(take(project, tmp_path / "backups", "checkpoints"))
    finally:
        over.set()
        thread.join()
    lines = [snapshot.products["digits"] for snapshot in taken]
    assert lines == sorted(lines)
    assert len(set(lines)) == len(lines), "it was busy meanwhile"
    for snapshot in taken:
        restored = restore(
            elsewhere, read_settings(elsewhere), tmp_path / "backups", snapshot.name, over=True
        )
        assert restored.ledgers == snapshot.products


def test_targets_that_cannot_be(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.project
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    (tmp_path / "folder.tar").mkdir()
    for target, sentence in (
        (project.settings.home / "backups", "lies in GENLOOM_HOME, with which it would be lost"),
        (tmp_path / "file", "is a file; name it"),
        (tmp_path / "other", "holds other things than backups"),
        (tmp_path / "folder.tar", "is a folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            take(project, target)
    with pytest.raises(UserError, match="There is no part of a backup “record”; did you mean records"):
        parts_of(["record"], [])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**20))
    with pytest.raises(UserError, match=r"The backup needs \d+ MiB and .* has 1 MiB left"):
        take(project, tmp_path / "full")
    with pytest.raises(UserError, match="holds no whole backup"):
        check(tmp_path / "full")


def test_what_is_not_in_it_is_told(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOOM_TRACKING_URI", "postgresql://ada:secret@db/mlflow")
    made = back_up(site.project, tmp_path / "backups", parts_of(["records"], []))
    told = " ".join(made.snapshot.without)
    assert "postgresql://db/mlflow" in told
    assert "secret" not in told
    assert "records" in told
    paths = [entry.path for entry in made.snapshot.files]
    assert "home/mlflow.db" not in paths
    assert not any("records" in path for path in paths)
    assert any(path.startswith("home/mlartifacts/digits/models/") for path in paths), (
        "its files are still ours"
    )
