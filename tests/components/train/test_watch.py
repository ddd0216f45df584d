"""What the launcher hands on of a running training: progress and pictures, each once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.project import open_project
from components.train.watch import Watch


@pytest.mark.usefixtures("project")
def test_samples_that_are_text_reach_the_run_log(tmp_path: Path) -> None:
    from components.tracking import Tracker, open_client

    settings = open_project().settings
    tracker = Tracker(settings)
    run = tracker.begin("texts-1", "texts", {}, {"product": "texts"})
    (tmp_path / "samples").mkdir()
    with Watch(tmp_path, tracker, run, None):
        (tmp_path / "samples" / "step-000000001.part").write_text("half")
        (tmp_path / "samples" / "step-000000002.txt").write_text("Once upon a time")
    found = open_client(settings).list_artifacts(run, "samples")
    assert [entry.path for entry in found] == ["samples/step-000000002.txt"]


@pytest.mark.usefixtures("project")
def test_every_line_of_progress_reaches_the_run_log_once(tmp_path: Path) -> None:
    """Lines go there together; a run that was resumed repeats some, and what the log missed is sent later."""
    from components.tracking import Tracker, open_client

    settings = open_project().settings
    tracker = Tracker(settings)
    run = tracker.begin("lines-1", "lines", {}, {"product": "lines"})
    shown: list[int] = []
    for last in (4, 7):
        lines = [json.dumps({"step": step, "loss/a": 1.0 / step, "seconds": 1.0}) for step in range(1, last)]
        with Watch(tmp_path, tracker, run, lambda line: shown.append(line["step"])) as watch:
            (tmp_path / "progress.jsonl").write_text("\n".join(lines) + "\n")
            watch.again = float("inf")
    history = open_client(settings).get_metric_history(run, "loss/a")
    assert [(one.step, one.value) for one in history] == [(step, 1.0 / step) for step in range(1, 7)]
    assert (tmp_path / "sent").read_text() == f"{run} 6"
    assert set(shown) == set(range(1, 7))


@pytest.mark.usefixtures("project")
def test_another_run_of_the_log_gets_what_the_one_before_got(tmp_path: Path) -> None:
    from components.tracking import Tracker, open_client

    settings = open_project().settings
    tracker = Tracker(settings)
    lines = [json.dumps({"step": step, "loss/a": 1.0 / step, "seconds": 1.0}) for step in range(1, 4)]
    (tmp_path / "progress.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-000000002.txt").write_text("Once")
    for name in ("first", "second"):
        run = tracker.begin(f"{name}-1", name, {}, {"product": "texts"})
        for _ in range(2):
            with Watch(tmp_path, tracker, run, None):
                pass
        client = open_client(settings)
        assert [one.step for one in client.get_metric_history(run, "loss/a")] == [1, 2, 3]
        assert len(client.list_artifacts(run, "samples")) == 1
