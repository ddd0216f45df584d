import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from components.evaluation.report import Metric, Report, write_report
from components.modalities.text import numbered
from components.train.runs import RunRecord, write_run
from flows.commands import main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with no data, in which only the commands of these tests are loaded."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text("datasets: {digits: {source: digits}}\n")
    monkeypatch.chdir(root)
    monkeypatch.setattr(main, "MODULES", ("runs",))
    monkeypatch.setenv("COLUMNS", "200")
    return root


@pytest.fixture
def make(root: Path) -> Iterator[Callable[..., RunRecord]]:
    """Write the folder of a run as training leaves it; one that runs is locked, as by its trainer."""
    held = []

    def call(name: str, latent: int = 16, shade: int = 0, **changes: object) -> RunRecord:
        folder = root / ".genloom" / "runs" / name
        content = {
            "id": name,
            "run": name.rpartition("-")[0],
            "product": "digits",
            "family": "vae",
            "key": "k" * 64,
            "parameters": {
                "family": "vae",
                "model": {"latent": latent, "width": 256},
                "train": {"log_every": 50},
            },
            "dataset": "digits",
            "revision": "r1",
            "created": f"2026-01-0{1 + len(list(folder.parent.glob('*')))}T00:00:00+00:00",
            "workers": 0,
            "steps": 100,
            "pid": os.getpid(),
            "state": "done",
        }
        record = write_run(RunRecord(**{**content, **changes}, folder=folder))
        if record.state == "running" and record.pid == os.getpid():
            held.append(FileLock(folder / "lock"))
            held[-1].acquire()
        lines = [
            {"step": step, "seconds": step / 10, "rows_per_second": 5000.0, "loss/autoencoder": latent / step}
            for step in (50, 100)
        ]
        record.progress.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "samples").mkdir(exist_ok=True)
        for step in (50, 100):
            Image.new("L", (40, 40), shade + step).save(folder / "samples" / f"step-{step:06}.png")
        return record

    yield call
    for lock in held:
        lock.release()


def evaluate(record: RunRecord, distance: float) -> None:
    metrics = {"distance": Metric(distance, distance - 1, distance + 1, "lower")}
    write_report(
        record.evaluation,
        Report("a", "vae", "digits", "r1", {}, metrics, pictures=("s.png",)),
    )


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_list_tells_where_each_run_stands(make, genloom) -> None:
    make("digits-vae-1a")
    make("digits-vae-2b", state="running")
    make("digits-gan-3c", state="running", pid=gone(), family="gan")
    rows = json.loads(genloom("runs", "list", "--json").out)
    assert [(row["id"], row["state"]) for row in rows] == [
        ("digits-gan-3c", "interrupted"),
        ("digits-vae-2b", "running"),
        ("digits-vae-1a", "done"),
    ]
    assert (rows[0]["family"], rows[0]["step"], rows[0]["steps"]) == ("gan", 100, 100)
    assert rows[0]["loss"] == {"autoencoder": 0.16}
    assert "100/100" in genloom("runs", "list").out


def test_no_runs_are_an_empty_list(root: Path, genloom) -> None:
    assert genloom("runs", "list").out == "No runs yet; start one with genloom train RUN.\n"
    assert json.loads(genloom("runs", "list", "--json").out) == []


def test_a_run_is_shown_by_id_beginning_or_name(make, genloom) -> None:
    record = make("digits-vae-1a")
    evaluate(record, 10.0)
    for name in ("digits-vae-1a", "digits-vae-1", "digits-vae"):
        shown = json.loads(genloom("runs", "show", name, "--json").out)
        assert shown["id"] == "digits-vae-1a"
    assert shown["metrics"] == {"distance": "10 [9, 11]"}
    assert shown["last"]["step"] == 100
    assert shown["pictures"] == [str(record.folder / "samples" / "step-000100.png")]
    assert shown["artifact"] is None
    said = genloom("runs", "show", "digits-vea")
    assert said.code == 2
    assert "“digits-vea”; did you mean digits-vae-1a" in said.err


def test_runs_are_compared_by_what_differs_with_one_picture(make, genloom, root: Path) -> None:
    first, second = make("digits-vae-1a", 16, 0), make("digits-vae-2b", 32, 100)
    evaluate(first, 10.0)
    said = json.loads(genloom("runs", "compare", "digits-vae-1a", "digits-vae-2b", "--json").out)
    assert said["parameters"] == {"model.latent": {"digits-vae-1a": 16, "digits-vae-2b": 32}}
    assert said["metrics"]["distance"] == {"digits-vae-1a": "10 [9, 11]", "digits-vae-2b": None}
    assert said["metrics"]["loss/autoencoder"] == {"digits-vae-1a": 0.16, "digits-vae-2b": 0.32}
    picture = Path(said["picture"])
    assert picture.parent == root / "out"
    with Image.open(picture) as sheet:
        shades = {sheet.getpixel((x, sheet.height // 2)) for x in range(sheet.width)}
    assert {(100, 100, 100), (200, 200, 200), (255, 255, 255)} <= shades
    table = genloom("runs", "compare", first.id, second.id, "-o", "here.png").out
    assert "model.latent" in table
    assert "model.width" not in table
    assert str(root / "here.png") in table
    assert (root / "here.png").is_file()


def test_runs_of_text_are_shown_with_their_files_and_compared_by_their_first_samples(make, genloom) -> None:
    texts = {
        "poem-gpt-1a": ["Night [bold]falls[/]", "two\n\nlines", "x" * 500, "no more"],
        "poem-lstm-2b": ["Day"],
    }
    for name, found in texts.items():
        record = make(name, len(found))
        for picture in (record.folder / "samples").iterdir():
            picture.unlink()
        (record.folder / "samples" / "step-000000100.txt").write_bytes(numbered(found))
    record.evaluation.mkdir()
    for name, content in (("samples", ["Evaluated"]), ("nearest", ["Near"])):
        (record.evaluation / f"{name}.txt").write_bytes(numbered(content))
    shown = json.loads(genloom("runs", "show", "poem-lstm", "--json").out)
    assert [Path(path).name for path in shown["pictures"]] == [
        "step-000000100.txt",
        "nearest.txt",
        "samples.txt",
    ]
    said = json.loads(genloom("runs", "compare", *texts, "--json").out)
    assert said["picture"] is None
    assert said["samples"]["poem-gpt-1a"] == [*texts["poem-gpt-1a"][:2], "x" * 400 + "…"]
    assert said["samples"]["poem-lstm-2b"] == ["Evaluated"]
    printed = genloom("runs", "compare", *texts).out
    assert re.search(r"Night \[bold\]falls\[/\].*Evaluated", printed)
    assert "No run has pictures" not in printed


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"metrics": {"a": 1}}'])
def test_a_damaged_report_is_one_sentence(make, genloom, content: str) -> None:
    first, second = make("digits-vae-1a"), make("digits-vae-2b", 32)
    evaluate(first, 10.0)
    (first.evaluation / "report.json").write_text(content)
    for arguments in (("show", first.id), ("compare", first.id, second.id)):
        said = genloom("runs", *arguments)
        assert said.code == 2
        assert "report.json is damaged; remove it and evaluate again." in said.err
        assert len(said.err.splitlines()) == 1


def test_a_picture_that_cannot_be_written_is_one_sentence(make, genloom, root: Path) -> None:
    first, second = make("digits-vae-1a"), make("digits-vae-2b", 32)
    (root / "file").write_text("")
    (root / "folder").mkdir()
    for out in ("file/here.png", "folder"):
        said = genloom("runs", "compare", first.id, second.id, "-o", out)
        assert said.code == 2
        assert re.fullmatch(r"genloom: The picture .* cannot be made: .*; name another with -o\.\n", said.err)
    assert sorted(path.name for path in root.glob(".folder*")) == []


def test_a_run_is_not_compared_with_itself(make, genloom) -> None:
    make("digits-vae-1a")
    said = genloom("runs", "compare", "digits-vae", "digits-vae-1a")
    assert said.code == 2
    assert "name two or more" in said.err


def test_the_log_is_told_line_by_line(make, genloom) -> None:
    make("digits-vae-1a")
    said = genloom("runs", "logs", "digits-vae", "-f").out.splitlines()
    assert said[0] == "step 50/100  5.0 s  5,000 rows/s  autoencoder=0.32"
    assert said[-1] == "digits-vae-1a: done"
    assert json.loads(genloom("runs", "logs", "digits-vae", "--json").out.splitlines()[1])["step"] == 100


FOLLOWED = """
import dataclasses, json, sys, time
from components.settings import Settings
from components.train.runs import read_run, write_run
record = read_run(Settings(home=sys.argv[1]), "digits-vae")
time.sleep(1)
with record.progress.open("a") as stream:
    stream.write(json.dumps({"step": 150, "loss/autoencoder": 0.1}) + "\\n")
write_run(dataclasses.replace(record, state="stopped", reason="by request"))
"""


def test_a_log_is_followed_to_its_end(make, genloom, root: Path) -> None:
    make("digits-vae-1a", state="running")
    writer = subprocess.Popen([sys.executable, "-c", FOLLOWED, str(root / ".genloom")])
    said = genloom("runs", "logs", "digits-vae", "--follow").out.splitlines()
    assert writer.wait(timeout=60) == 0
    assert said[-2].startswith("step 150/100")
    assert said[-1] == "digits-vae-1a: stopped (by request)"


def test_only_a_run_that_runs_can_be_stopped(make, genloom) -> None:
    running = make("digits-vae-1a", state="running")
    said = genloom("runs", "stop", "digits-vae")
    assert said.code == 0
    assert "writes a checkpoint" in said.out
    assert running.stop_file.is_file()
    for state, pid in (("done", os.getpid()), ("running", gone())):
        ended = make("digits-gan-2b", state=state, pid=pid)
        refused = genloom("runs", "stop", "digits-gan")
        assert refused.code == 2
        assert "nothing to stop" in refused.err
        assert not ended.stop_file.exists()


def test_a_log_that_is_followed_stays_with_its_training(make, genloom, root: Path) -> None:
    make("digits-vae-1a", state="running")
    code = FOLLOWED.replace('"digits-vae")', '"digits-vae-1a")')
    writer = subprocess.Popen([sys.executable, "-c", code, str(root / ".genloom")])
    later = threading.Timer(0.5, lambda: make("digits-vae-2b", state="running"))
    later.start()
    said = genloom("runs", "logs", "digits-vae", "--follow").out.splitlines()
    later.join()
    assert writer.wait(timeout=60) == 0
    assert [line.split()[1] for line in said[:-1]] == ["50/100", "100/100", "150/100"]
    assert said[-1] == "digits-vae-1a: stopped (by request)"


@pytest.mark.parametrize("content", ["5", "\xff", "[]", '{"step": "a"}', '{"step": 1'])
def test_damaged_lines_of_progress_are_left_out(make, genloom, content: str) -> None:
    record = make("digits-vae-1a")
    with record.progress.open("ab") as stream:
        stream.write(content.encode("latin-1") + b"\n")
    assert genloom("runs", "list").code == 0
    assert len(genloom("runs", "logs", "digits-vae").out.splitlines()) == 3


def test_a_damaged_record_does_not_hide_the_others(make, genloom) -> None:
    make("digits-vae-1a")
    other = make("digits-vae-2b")
    path = other.folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": 5}))
    listed = genloom("runs", "list", "--json")
    assert listed.code == 0
    assert [row["id"] for row in json.loads(listed.out)] == ["digits-vae-1a"]
