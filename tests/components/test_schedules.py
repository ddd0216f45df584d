"""`schedule.yaml`: written and read back, comments kept, and what is wrong with it said in one sentence."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from components.errors import UserError
from components.project import open_project
from components.schedules import add, named, path_of, pause, read_schedules, remove, schedule_row


def test_the_file_is_made_changed_and_read_back(project: Path) -> None:
    nightly = schedule_row("digits-vae", cron="0 3 * * *", timezone="Europe/Berlin", set=["train.steps=9"])
    add(open_project(), "nightly", nightly)
    add(open_project(), "often", schedule_row("digits-gan", every="6h", workers=2))
    path = path_of(project)
    path.write_text(path.read_text() + "# ours\n")
    pause(open_project(), "nightly", True)
    read = read_schedules(project)
    assert read.row("nightly") == nightly.model_copy(update={"paused": True})
    assert read.row("nightly").digest != nightly.digest
    assert named(project, read).startswith("project-")
    assert path.read_text().startswith("# When runs are retrained")
    assert path.read_text().endswith("# ours\n")
    pause(open_project(), "nightly", False)
    remove(open_project(), "often")
    assert read_schedules(project).schedules == {"nightly": nightly}
    at_noon = datetime(2026, 5, 1, 12, tzinfo=ZoneInfo("UTC"))
    assert nightly.next(at_noon) == datetime(2026, 5, 2, 1, tzinfo=ZoneInfo("UTC"))
    with pytest.raises(UserError, match=r"already a schedule “nightly”"):
        add(open_project(), "nightly", nightly)
    with pytest.raises(UserError, match=r"small letters"):
        add(open_project(), "Nightly!", nightly)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("schedules: {n: {run: r, cron: '0 3 * * *', zone: UTC}}", "There is no field “zone”"),
        ("schedules: {n: {run: r}}", "give either cron or every"),
        ("schedules: {n: {run: r, cron: '0 3 * *'}}", "it has 4 fields instead of five"),
        ("schedules: {n: {run: r, every: 1d, timezone: Berlin}}", "did you mean Europe/Berlin"),
        ("schedules: {N: {run: r, every: 1d}}", "“N” is no good name"),
        ("schedules: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, content: str, cause: str) -> None:
    path_of(tmp_path).write_text(content)
    with pytest.raises(UserError, match=cause) as raised:
        read_schedules(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_project_without_the_file_has_no_schedules(tmp_path: Path) -> None:
    assert read_schedules(tmp_path).schedules == {}
    with pytest.raises(UserError, match=r"no schedule “nightly”; there are: none yet"):
        read_schedules(tmp_path).row("nightly")
