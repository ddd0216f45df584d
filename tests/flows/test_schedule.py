"""Schedules on a real Prefect server: by the clock and by order, through kill -9, and nothing left at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from components.errors import FailedError
from components.project import open_project
from components.schedules import named, path_of, read_schedules
from components.settings import Settings
from components.train.runs import read_runs
from flows import scheduler
from flows.deployments import superseded
from flows.last import FILE, keep, kept
from flows.scheduled import concluded, result_of
from flows.server import PrefectServer
from tests.e2e.processes import line, processes_of
from tests.until import until

Genloom = Callable[..., Any]
TINY = ("--workers", "0", "--set", "train.threads=1", "--set", "model.width=64")
NEVER = ("--cron", "0 0 29 2 *", "--timezone", "Europe/Berlin")
"""A time that does not come while tests run (unless on a leap day at midnight)."""
SLOW = 300.0
"""Seconds of patience with a training and with a Prefect server that starts."""


@pytest.fixture(scope="module")
def home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose schedule runs in the background; at the end nothing of it does."""
    root = tmp_path_factory.mktemp("schedule") / "project"
    shutil.copytree(template, root, symlinks=True)
    scheduler.start_detached(open_project(root))
    yield root
    scheduler.stop(open_project(root).settings)
    assert processes_of(root) == []


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def listed(genloom: Genloom, name: str) -> dict[str, Any]:
    said = genloom("schedule", "list", "--json")
    assert said.code == 0, said.err
    (row,) = [row for row in json.loads(said.out) if row["name"] == name]
    found: dict[str, Any] = row
    return found


def test_a_schedule_is_known_rests_goes_on_and_is_removed(here: Path, genloom: Genloom) -> None:
    from flows.deployments import Deployments, asking

    said = genloom("schedule", "add", "digits-vae", *NEVER, "--name", "leap", *TINY)
    assert said.code == 0, said.err
    assert "leap retrains digits-vae: 0 0 29 2 *, Europe/Berlin; the next time is 2" in said.out
    assert said.err == "", "somebody is there to execute it"
    until(lambda: listed(genloom, "leap")["executed"], SLOW)
    row = listed(genloom, "leap")
    assert (row["run"], row["cron"], row["timezone"]) == ("digits-vae", "0 0 29 2 *", "Europe/Berlin")
    assert row["next"][4:16] == "-02-29T00:00"
    assert (row["paused"], row["last"], row["workers"]) == (False, None, 0)
    url = scheduler.url_of(open_project().settings)
    assert url is not None
    with asking(url, retries=3) as client:
        deployments = Deployments(client, named(here, read_schedules(here)))
        deployment = deployments.read()["leap"]
        assert deployment.schedules[0].active
        assert genloom("schedule", "pause", "leap").code == 0
        assert listed(genloom, "leap")["paused"]
        until(lambda: deployments.read()["leap"].paused, SLOW)
        assert genloom("schedule", "resume", "leap").code == 0
        until(lambda: not deployments.read()["leap"].paused, SLOW)
        assert deployments.read()["leap"].id == deployment.id
        assert genloom("schedule", "remove", "leap").code == 0
        until(lambda: "leap" not in deployments.read(), SLOW)


def test_a_run_that_was_removed_fails_in_one_sentence_that_list_shows(here: Path, genloom: Genloom) -> None:
    assert genloom("schedule", "add", "digits-gan", *NEVER, "--name", "gone").code == 0
    params = here / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("  digits-gan:", "  digits-gan-2:"))
    try:
        said = genloom("schedule", "run", "gone")
        checked = genloom("check")
    finally:
        params.write_text(before)
    cause = "There is no run “digits-gan”; did you mean digits-gan-2"
    assert said.code == 2
    assert cause in said.err
    assert checked.code == 2
    assert f"schedules.gone: {cause}" in checked.err
    last = listed(genloom, "gone")["last"]
    assert last["outcome"] == "wrong use"
    assert last["reason"].startswith(cause)


def test_after_kill_9_nothing_runs_for_ever_and_the_next_goes_on_from_the_checkpoint(
    here: Path, genloom: Genloom
) -> None:
    steps = (
        "--set",
        "train.steps=2000",
        "--set",
        "train.checkpoint_every=50",
        "--set",
        "train.log_every=50",
    )
    assert genloom("schedule", "add", "digits-vae", *NEVER, "--name", "long", *TINY, *steps).code == 0
    settings = open_project().settings
    running = scheduler.find(settings)
    assert running is not None
    follower = subprocess.Popen(
        line("schedule", "run", "long"), cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(
        lambda: any(settings.runs.glob("*/checkpoints/step-*/state.json")) or follower.poll() is not None,
        SLOW,
    )
    assert follower.poll() is None, follower.communicate()
    os.kill(running.pid, signal.SIGKILL)
    _, said = follower.communicate(timeout=SLOW)
    assert follower.returncode == 1, said
    assert "does not answer" in said
    until(lambda: processes_of(here) == [], SLOW, lambda: processes_of(here))
    interrupted = [run for run in read_runs(settings) if run.interrupted]
    assert len(interrupted) == 1
    quiet = genloom("schedule", "run", "long")
    assert (quiet.code, "type genloom schedule start --detach" in quiet.err) == (2, True)
    assert not listed(genloom, "long")["executed"]
    assert genloom("schedule", "start", "--detach").code == 0
    again = scheduler.find(settings)
    assert again is not None
    assert (again.url, again.pid == running.pid) == (running.url, False), "the port is kept"
    last = listed(genloom, "long")["last"]
    assert last["outcome"] == "crashed"
    assert "Its runner ended while it was under way" in last["reason"]
    done = genloom("schedule", "run", "long")
    assert (done.code, done.out) == (0, "digits/1: promoted\n"), done.err
    for word in ("prepared ", "trained ", "evaluated ", "registered digits/1", "gate "):
        assert word in done.err
    assert [(run.id, run.state) for run in read_runs(settings)] == [(interrupted[0].id, "done")]
    last = listed(genloom, "long")["last"]
    assert (last["outcome"], last["version"]) == ("promoted", "digits/1")
    assert genloom("schedule", "start", "--detach").code == 0, "twice is as once"
    assert scheduler.find(settings) == again
    twice = genloom("schedule", "start")
    assert (twice.code, "runs already" in twice.err) == (2, True)
    assert genloom("schedule", "stop").code == 0
    assert processes_of(here) == []
    assert genloom("schedule", "stop").out == "No schedule runs.\n"
    assert last["began"] < last["ended"]
    assert listed(genloom, "long")["last"] == last, "also when nothing runs"
    assert "promoted digits/1" in genloom("schedule", "list").out


def test_what_came_of_a_retraining_is_told_by_its_state() -> None:
    from prefect.states import Crashed, Failed

    from flows.retrain import Outcome

    refused = result_of(concluded(Outcome("digits", "digits-vae-1", 4, True, False, ("Worse.", "Much."), 3)))
    assert (refused.outcome, refused.version, refused.reason) == ("Refused", "digits/4", "Worse. Much.")
    assert refused.exit_code == 0, "a refusal is a success"
    promoted = result_of(concluded(Outcome("digits", "digits-vae-1", 4, True, True, (), 4)))
    assert (promoted.outcome, promoted.exit_code) == ("Promoted", 0)
    wrong = result_of(Failed(name="Wrong use", message="There is no run."))
    assert (wrong.version, wrong.reason, wrong.exit_code) == (None, "There is no run.", 2)
    assert result_of(Failed(message="It broke.")).exit_code == 1
    assert result_of(Crashed(message="It was killed.")).exit_code == 1


def test_what_came_of_schedules_is_kept_and_a_damaged_file_is_nothing(tmp_path: Path) -> None:
    assert kept(tmp_path) == {}
    keep(tmp_path, {"nightly": {"outcome": "refused"}})
    assert kept(tmp_path) == {"nightly": {"outcome": "refused"}}
    for content in ("[]", "{", "\xff"):
        (tmp_path / FILE).write_bytes(content.encode("latin-1"))
        assert kept(tmp_path) == {}


def test_a_server_that_answers_at_the_port_of_ours_is_not_taken_for_ours(tmp_path: Path) -> None:
    """As when another Prefect server takes the port while ours starts."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    other = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    ours = PrefectServer(Settings(home=tmp_path), tmp_path / "prefect", other.server_port)
    try:
        with pytest.raises(FailedError, match=r"did not start; its log is"):
            ours.wait()
    finally:
        other.shutdown()
        other.server_close()


def flow_run(deployment: object, minute: int, ordered: bool = False) -> SimpleNamespace:
    moment = datetime(2026, 5, 1, 3, tzinfo=UTC) + timedelta(minutes=minute)
    return SimpleNamespace(
        id=uuid4(), deployment_id=deployment, expected_start_time=moment, auto_scheduled=not ordered
    )


def test_of_the_times_that_were_missed_the_last_stands_for_all() -> None:
    nightly, paused = uuid4(), uuid4()
    week = [flow_run(nightly, minute) for minute in (2, 0, 1)]
    order, rested = flow_run(paused, 0, ordered=True), flow_run(paused, 1)
    assert superseded([*week, order, rested], {paused}) == {week[0].id, order.id}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digits-vea", "--cron", "0 3 * * *"), "no run “digits-vea”; did you mean digits-vae"),
        (("digits-vae",), 'Say when: --cron "0 3 * * *"'),
        (("digits-vae", "--cron", "0 3 * * *", "--every", "1d"), "one of the two"),
        (("digits-vae", "--cron", "0 25 * * *"), "bad hour; the fields are minute, hour"),
        (("digits-vae", "--every", "7 days"), "such as 30m, 6h or 1d"),
        (("digits-vae", "--every", "1d", "--timezone", "Berlin"), "did you mean Europe/Berlin"),
        (("digits-vae", "--every", "1d", "--set", "model.latnet=3"), "did you mean model.latent"),
        (("digits-vae", "--every", "1d", "--name", "A b"), "“A b” is no good name"),
        (("digits-vae", "--every", "1d", "--workers", "999"), "999"),
    ],
)
def test_wrong_use_of_add_writes_nothing(
    project: Path, genloom: Genloom, arguments: tuple[str, ...], sentence: str
) -> None:
    said = genloom("schedule", "add", *arguments)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not path_of(project).exists()


def test_wrong_use_of_the_other_verbs(
    project: Path, genloom: Genloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "There are no schedules yet" in genloom("schedule", "list").out
    added = genloom("schedule", "add", "digits-vae", "--every", "1d", "--name", "nightly")
    assert added.code == 0
    assert "Nothing here executes the schedules now; type genloom schedule start" in added.err
    assert (
        "already a schedule"
        in genloom("schedule", "add", "digits-vae", "--every", "1d", "--name", "nightly").err
    )
    for verb in ("pause", "resume", "remove", "run"):
        said = genloom("schedule", verb, "nightli")
        assert said.code == 2
        assert "no schedule “nightli”; did you mean nightly?" in said.err
    said = genloom("schedule", "run", "nightly")
    assert (said.code, "type genloom schedule start --detach" in said.err) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for detach in ((), ("--detach",)):
            said = genloom("schedule", "start", "--port", port, *detach)
            assert said.code == 2
            assert f"The port {port} on 127.0.0.1 cannot be used" in said.err
    monkeypatch.setenv("GENLOOM_HOME", "/proc/nothing")
    for verb in (("pause", "nightly"), ("start",), ("start", "--detach")):
        said = genloom("schedule", *verb)
        assert said.code == 2
        assert "GENLOOM_HOME" in said.err


@pytest.mark.parametrize("verb", [("start", "--detach"), ("list",)])
def test_a_silent_server_of_a_team_is_one_sentence(project: Path, verb: tuple[str, ...]) -> None:
    """In a process of its own, because this one may have met Prefect, which then keeps to the server of that time."""
    silent = "http://127.0.0.1:9/api"
    said = subprocess.run(
        line("schedule", *verb),
        cwd=project,
        env={**os.environ, "PREFECT_API_URL": silent},
        capture_output=True,
        text=True,
        timeout=SLOW,
        check=False,
    )
    assert said.returncode == 2
    assert f"No Prefect server answers at PREFECT_API_URL={silent}" in said.stderr
