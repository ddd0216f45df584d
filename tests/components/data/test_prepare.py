"""The prepared dataset: what is written, that it is the same every time, and what happens when it cannot be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.data.add import describe
from components.data.dataset import SPLITS, file_hash, open_dataset
from components.data.prepare import prepare, reproduce
from components.data.spool import content_id
from components.data.stages import ensure_stage
from components.errors import FailedError, UserError
from components.project import Project, open_project

Bare = Callable[[dict[str, Any]], Project]
Draw = Callable[..., Path]
MINE = {
    "source": "folder",
    "path": "raw",
    "size": [8, 6],
    "licence": "CC0",
    "split": {"val": 0.2, "test": 0.2},
}


def mine(bare: Bare, draw: Draw, count: int = 40, **fields: Any) -> Project:
    """A project with `count` pictures in two classes."""
    project = bare({"mine": {**MINE, **fields}})
    draw(project.root / "raw" / "cat", range(count // 2))
    draw(project.root / "raw" / "dog", range(count // 2, count))
    return project


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_hash(path) for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_written(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    (project.root / "raw" / "dog" / "note.txt").write_text("no picture")
    (project.root / "raw" / "dog" / "copy.png").write_bytes((project.root / "raw/dog/0030.png").read_bytes())
    dataset = prepare(project, "mine", project.prepared / "mine")
    assert dataset == open_dataset(project.prepared / "mine")
    assert sorted(path.name for path in dataset.folder.iterdir()) == [
        *("dataset.json", "preview.png", "report.json", "test", "train", "val")
    ]
    assert dataset.shape.data == (3, 8, 6)
    assert dataset.classes == ("cat", "dog")
    ids = []
    for split in SPLITS:
        table = pq.read_table(dataset.folder / split / "00000.parquet")
        about = json.loads(table.schema.metadata[b"genloom"])
        assert about == {
            **{"modality": "image", "shape": [3, 8, 6], "classes": ["cat", "dog"]},
            **{"name": "mine", "licence": "CC0", "source": "folder"},
        }
        batch = dataset.whole(split)
        pictures = ((batch.data + 1) * 127.5).round().to(torch.uint8).numpy()
        assert [content_id(picture) for picture in pictures] == table.column("id").to_pylist()
        assert batch.label is not None
        ids += table.column("id").to_pylist()
    assert len(set(ids)) == len(ids) == 40
    report = json.loads((dataset.folder / "report.json").read_text())
    assert (report["read"], report["kept"]) == (42, 40)
    assert report["dropped"] == {
        "no picture in a format that can be read": {"count": 1, "files": ["dog/note.txt"]},
        "the same picture as another": {"count": 1, "files": ["dog/copy.png"]},
    }
    assert sum(found["classes"]["cat"] for found in report["splits"].values()) == 20
    assert {split: found["rows"] for split, found in report["splits"].items()} == {
        split: dataset.rows(split) for split in SPLITS
    }
    with Image.open(dataset.folder / "preview.png") as preview:
        assert preview.width > 100


def test_the_same_input_gives_the_same_bytes(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    first = prepare(project, "mine", project.root / "first")
    for path in sorted((project.root / "raw").rglob("*.png")):
        path.rename(path.with_name(f"{content_id(np.asarray(Image.open(path)))[:8]}.png"))  # another order
    second = prepare(project, "mine", project.root / "second")
    assert files(first.folder) == files(second.folder)
    assert first.revision == second.revision


def test_rows_stay_where_they_are_when_pictures_are_added(bare: Bare, draw: Draw) -> None:
    def ids(count: int) -> dict[str, set[str]]:
        draw(project.root / "raw" / "dog", range(40, 40 + count))
        dataset = prepare(project, "mine", project.prepared / "mine")
        return {
            split: {key for path in dataset.paths(split) for key in pq.read_table(path)["id"].to_pylist()}
            for split in SPLITS
        }

    project = mine(bare, draw)
    before, after = ids(0), ids(60)
    assert all(before[split] < after[split] for split in SPLITS)


def test_large_data_has_row_groups_and_files(bare: Bare, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.spool.GROUP_ROWS", 4)
    monkeypatch.setattr("components.data.spool.FILE_BYTES", 8 * 3 * 8 * 6)
    project = mine(bare, draw)
    dataset = prepare(project, "mine", project.prepared / "mine")
    paths = dataset.paths("train")
    assert [path.name for path in paths] == [f"{number:05d}.parquet" for number in range(len(paths))]
    assert len(paths) > 2
    assert pq.read_metadata(paths[0]).num_row_groups == 2
    assert sum(pq.read_metadata(path).num_rows for path in paths) == dataset.rows("train")


def test_too_few_pictures_says_the_arithmetic_and_keeps_what_was(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    target = project.prepared / "mine"
    before = files(prepare(project, "mine", target).folder)
    for path in sorted((project.root / "raw").rglob("*.png"))[2:]:
        path.write_text("no picture any more")
    with pytest.raises(UserError) as caught:
        prepare(project, "mine", target)
    message = str(caught.value)
    assert "40 found, 38 left out (38 no picture in a format that can be read), 2 kept, of which" in message
    assert "each split needs at least one; add pictures" in message
    assert files(target) == before
    assert [path.name for path in project.prepared.iterdir()] == ["mine"]


def test_names_that_are_no_unicode_are_escaped(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    raw = project.root / "raw"
    (raw / "cat").rename(raw / os.fsdecode(b"c\xffat"))
    (raw / "dog" / os.fsdecode(b"\xff.txt")).write_text("no picture")
    dataset = prepare(project, "mine", project.prepared / "mine")
    assert dataset.classes == (r"c\udcffat", "dog")
    report = json.loads((dataset.folder / "report.json").read_text())
    assert report["dropped"]["no picture in a format that can be read"]["files"] == [r"dog/\udcff.txt"]


def test_what_a_crash_left_between_two_renames_is_put_back(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    target = project.prepared / "mine"
    before = files(prepare(project, "mine", target).folder)
    target.rename(target.with_name(".mine.old"))
    (project.root / "raw").rename(project.root / "gone")
    with pytest.raises(UserError, match="There is no"):
        prepare(project, "mine", target)
    assert files(target) == before
    assert [path.name for path in project.prepared.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["${x}", os.fsdecode(b"\xff")])
def test_a_path_that_dvc_cannot_hold_is_refused(bare: Bare, draw: Draw, name: str) -> None:
    project = bare({})
    with pytest.raises(UserError, match=r"^The path .* or a character that is no Unicode"):
        describe(project, draw(project.root / name / "deep", range(3)), {})
    assert not (project.root / "dvc.yaml").exists()


def test_a_row_with_a_path_that_dvc_cannot_hold_gets_no_stage(bare: Bare, draw: Draw) -> None:
    project = bare({"mine": {**MINE, "path": "${x}"}})
    draw(project.root / "${x}", range(40))
    with pytest.raises(UserError, match=r"^The path \$\{x\} has"):
        reproduce(project, ["mine"])
    assert not (project.root / "dvc.yaml").exists()


def test_a_path_may_begin_with_a_home_folder(bare: Bare, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    project = bare({"mine": {**MINE, "path": "~/raw"}, "other": {**MINE, "path": "~nobody-here/raw"}})
    monkeypatch.setenv("HOME", str(project.root / "home"))
    draw(project.root / "home" / "raw", range(40))
    assert reproduce(project, ["mine"])[0].rows("train") > 0
    stage = (project.root / "dvc.yaml").read_text()
    assert "- home/raw\n" in stage
    monkeypatch.setattr("components.data.stages.run_dvc", lambda *_: pytest.fail("the stage is there"))
    ensure_stage(project, "mine")
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(project.root / "home"))
    with pytest.raises(UserError, match=r"params\.yaml is ~nobody-here/raw: there is no such user"):
        reproduce(project, ["other"])


def test_a_name_that_dvc_cannot_note_is_told_before_anything_is_read(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    (project.root / "raw" / "dog" / os.fsdecode(b"\xff.txt")).write_text("no picture")
    with pytest.raises(UserError, match=r"raw/dog/\\udcff\.txt is no Unicode, .*; rename the file"):
        reproduce(project, ["mine"])
    assert not (project.root / "dvc.yaml").exists()


def test_every_stage_depends_on_the_code_that_decides_its_bytes(project: Path) -> None:
    before = (project / "dvc.yaml").read_text()
    ensure_stage(open_project(project), "digits")
    assert (project / "dvc.yaml").read_text() == before
    assert "- components/data/example.py" in before


def test_no_pictures_at_all(bare: Bare) -> None:
    project = bare({"mine": MINE})
    (project.root / "raw").mkdir()
    with pytest.raises(UserError, match="is empty; put pictures into it"):
        prepare(project, "mine", project.prepared / "mine")
    (project.root / "raw" / "a.txt").write_text("x")
    with pytest.raises(UserError, match="has no picture that can be read: 1 found, 1 left out"):
        prepare(project, "mine", project.prepared / "mine")
    assert list(project.prepared.iterdir()) == []


def test_a_target_that_cannot_be_written(bare: Bare, draw: Draw) -> None:
    project = mine(bare, draw)
    (project.root / "data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot be read or written: Not a directory; free some space"):
        prepare(project, "mine", project.prepared / "mine")


@pytest.mark.parametrize("limit", [1_000, 4_000], ids=["while reading", "while writing"])
def test_no_space_on_the_disk(bare: Bare, draw: Draw, limit: int) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    project = mine(bare, draw)
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from components.data.prepare import main\n"
        "sys.exit(main(['mine']))\n"
    )
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("genloom: ")
    assert sentence.endswith(
        "cannot be read or written: File too large; free some space or change its permissions."
    )
    assert list(project.prepared.iterdir()) == []


def test_dvc_prepares_what_changed_and_only_that(bare: Bare, draw: Draw) -> None:
    """A row written by hand, in a folder that is no DVC workspace yet."""
    project = mine(bare, draw)
    told: list[tuple[str, int, int]] = []
    [dataset] = reproduce(project, ["mine"], progress=lambda *what: told.append(what))
    assert told[-1] == ("mine (pictures)", 40, 40)
    told.clear()
    assert reproduce(project, ["mine"], progress=lambda *what: told.append(what)) == [dataset]
    assert told == []
    draw(project.root / "raw" / "dog", range(40, 50))
    [larger] = reproduce(project, ["mine"])
    assert larger.revision != dataset.revision
    assert sum(larger.rows(split) for split in SPLITS) == 50

    before = files(larger.folder)
    (project.root / "raw" / "metadata.jsonl").write_text("{oops")
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1 is not valid JSON") as caught:
        reproduce(project, ["mine"])
    assert caught.value.exit_code == 2
    assert files(larger.folder) == before

    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("path: raw", "path: photos"))
    (project.root / "raw" / "metadata.jsonl").unlink()
    (project.root / "raw").rename(project.root / "photos")
    assert reproduce(open_project(project.root), ["mine"])[0].revision == larger.revision
    assert "- photos" in (project.root / "dvc.yaml").read_text()


def test_what_dvc_refuses_is_one_sentence(project: Path) -> None:
    stages = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(stages + "  odd:\n    cmd: 'true'\n    deps: [gone]\n    bogus: 1\n")
    with pytest.raises(FailedError, match=r"^dvc repro failed: .*; mend it and repeat the command\.$"):
        reproduce(open_project(project), ["digits"])
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml is not valid YAML"):
        reproduce(open_project(project), ["digits"])
    with pytest.raises(UserError, match=r"There is no dataset “digit”; did you mean digits or "):
        reproduce(open_project(project), ["digit"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_stage_too(bare: Bare, number: signal.Signals) -> None:
    """A stage that waits for a server is gone when the command that started it is stopped, and so is its DVC."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(200)
        file = {"url": f"http://127.0.0.1:{server.getsockname()[1]}/a.gz", "sha256": "0" * 64}
        project = bare({"slow": {"source": "idx", "files": {"train_images": file}}})
        code = "from flows.commands.main import main; main()"
        command = [sys.executable, "-c", code, "data", "prepare", "slow"]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        with subprocess.Popen(command, cwd=project.root, env=environment, stderr=subprocess.PIPE) as process:
            stage, _ = server.accept()
            started = psutil.Process(process.pid).children(recursive=True)
            assert len(started) >= 2, "DVC and the stage"
            process.send_signal(number)
            _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert b"Traceback" not in said
    assert psutil.wait_procs(started, timeout=20)[1] == []
    with stage:
        stage.settimeout(10)
        while stage.recv(4096):
            pass  # the request; then the end of the connection, because its process has ended
    assert list(project.prepared.iterdir()) == []
    assert list((project.settings.home / "downloads").iterdir()) == []
    with pytest.raises(UserError, match="cannot be downloaded"):  # nothing that was left is in the way
        reproduce(project, ["slow"])
