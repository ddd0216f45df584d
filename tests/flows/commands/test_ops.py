"""`genloom ops` on the command line: what is said, what programs get, and how wrong use ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.components.ops.test_gc import AGED

Genloom = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with a key, a record and a log that is old."""
    root = tmp_path / "project"
    (root / ".genloom" / "records" / "digits").mkdir(parents=True)
    (root / ".genloom" / "serve").mkdir()
    (root / "params.yaml").write_text("datasets: {digits: {source: digits}}\n")
    (root / ".genloom" / "records" / "digits" / "2026-11-20.jsonl").write_text("{}\n")
    log = root / ".genloom" / "serve" / "server.log"
    log.write_text("served\n")
    os.utime(log, (AGED, AGED))
    monkeypatch.chdir(root)
    return root


def test_backup_and_restore(
    root: Path, tmp_path: Path, genloom: Genloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = genloom("ops", "backup", tmp_path / "backups", "--without", "flows")
    assert said.code == 0, said.err
    assert "of them are new" in said.err
    assert "Not in it: flows" in said.out
    (root / ".genloom" / "records" / "digits" / "2026-11-20.jsonl").write_text("{}\n{}\n")
    made = json.loads(genloom("ops", "backup", tmp_path / "backups", "--keep", "1", "--json").out)
    assert made["freed"] > 0
    checked = json.loads(genloom("ops", "restore", tmp_path / "backups", "--check", "--json").out)
    assert (checked["name"], checked["whole"]) == (made["name"], True)
    findings = {row["subject"]: row for row in json.loads(genloom("doctor", "--json").out)}
    assert findings["backup"]["verdict"] == "ok"
    refused = genloom("ops", "restore", tmp_path / "backups")
    assert refused.code == 2
    assert "give --over to set it aside" in refused.err
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    said = genloom("ops", "restore", tmp_path / "backups")
    assert said.code == 0, said.err
    assert "Prepared data are not in it" in said.out
    assert (tmp_path / "new" / ".genloom" / "records" / "digits" / "2026-11-20.jsonl").is_file()
    assert (tmp_path / "new" / "params.yaml").is_file()


def test_a_restore_says_whose_key_signs(root: Path, tmp_path: Path, genloom: Genloom) -> None:
    assert genloom("ops", "backup", tmp_path / "backups", "--without", "flows").code == 0
    key = root / ".genloom" / "labels" / "key.pem"
    key.parent.mkdir()
    key.write_text("of this machine")
    said = genloom("ops", "restore", tmp_path / "backups", "--over")
    assert said.code == 0, said.err
    assert f"{key}, which was here before, stays and signs" in said.out
    assert key.read_text() == "of this machine"
    again = json.loads(genloom("ops", "restore", tmp_path / "backups", "--over", "--json").out)
    assert again["kept_key"] == str(key)


def test_gc_says_before_it_does(root: Path, genloom: Genloom) -> None:
    log = root / ".genloom" / "serve" / "server.log"
    said = genloom("ops", "gc", "--only", "logs")
    assert said.code == 0, said.err
    assert "serve/server.log" in said.out
    assert "genloom ops gc --yes" in said.out
    assert log.is_file()
    found = json.loads(genloom("ops", "gc", "--only", "logs", "--json").out)
    assert found["bytes"] == len("served\n")
    assert (
        json.loads(genloom("ops", "gc", "--only", "logs", "--yes", "--json").out)["freed"] == found["bytes"]
    )
    assert not log.exists()
    assert "nothing that nobody needs" in genloom("ops", "gc", "--only", "logs").out


def test_migrate_says_before_it_does(root: Path, genloom: Genloom) -> None:
    finding = {row["subject"]: row for row in json.loads(genloom("doctor", "--json").out)}["migration"]
    assert finding["verdict"] == "note"
    assert "layout 0 → 1; type genloom ops migrate" in finding["found"]
    assert json.loads(genloom("ops", "migrate", "--dry-run", "--json").out)[0]["what"] == "layout"
    assert "done: layout" in genloom("ops", "migrate").out
    assert "Everything is up to date" in genloom("ops", "migrate").out
    (root / ".genloom" / "layout").write_text("9\n")
    for verb in (["runs", "list"], ["check"], ["keys", "list"], ["ops", "gc"], ["schedule", "list"]):
        said = genloom(*verb)
        assert said.code == 2
        assert "has the layout 9 of a newer Genloom" in said.err
        assert "genloom ops migrate" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gc", "--older-than", "soon"], "--older-than is 'soon': write a number and m, h or d"),
        (["gc", "--only", "nothing"], "There is no kind of garbage “nothing”"),
        (["backup", "x.tar", "--keep", "3"], "is one backup; --keep is for a folder"),
        (["backup", "x", "--with", "keys"], "There is no part of a backup “keys”"),
        (["restore", "nowhere"], "There is no backup nowhere"),
    ],
)
@pytest.mark.usefixtures("root")
def test_wrong_use(genloom: Genloom, arguments: list[str], sentence: str) -> None:
    said = genloom("ops", *arguments)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not Path("x").exists()
    shutil.rmtree(".genloom")
