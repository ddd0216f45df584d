"""Training in this process: resuming bit for bit, stopping, refusing, and never training twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.errors import FailedError, UserError
from components.families.family import Batch
from components.project import open_project
from components.train import checkpoint
from components.train.attempts import Trained
from components.train.launch import train
from components.train.runs import load_run, read_progress, read_run, read_runs
from components.train.step import Trainee
from components.train.wanted import plan_of
from tests.until import until

SHORT = [
    "train.steps=60",
    "train.checkpoint_every=20",
    "train.log_every=10",
    "train.sample_every=30",
    "train.threads=1",
]
SMALL = [*SHORT, "model.width=64"]


def go(overrides: list[str], run: str = "digits-vae", fresh: bool = False) -> Trained:
    return train(open_project(), run, overrides, workers=0, fresh=fresh)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    # load_file maps the file, which a test may harm later
    return {
        name: value.clone() for name, value in load_file(trained.artifact / "networks.safetensors").items()
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("project")
def test_a_training_leaves_progress_pictures_checkpoints_and_an_artifact() -> None:
    seen: list[int] = []
    trained = train(
        open_project(), "digits-vae", SMALL, workers=0, progress=lambda line: seen.append(line["step"])
    )
    record = load_run(trained.folder)
    assert record.state == "done"
    assert seen == [10, 20, 30, 40, 50, 60]
    lines = read_progress(record)
    assert lines[-1]["loss/autoencoder"] < lines[0]["loss/autoencoder"]
    assert lines[0]["rows_per_second"] > 0
    assert "tokens_per_second" not in lines[0]
    assert 0.05 < lines[0]["memory_gib"] < 100
    assert [path.name for path in sorted((trained.folder / "samples").iterdir())] == [
        "step-000000030.png",
        "step-000000060.png",
    ]
    assert [path.name for path in checkpoint.checkpoints(trained.folder)] == [
        "step-000000040",
        "step-000000060",
    ]
    manifest = json.loads((trained.artifact / "model.json").read_text())
    assert manifest["family"] == "vae"
    assert manifest["about"]["dataset"] == "digits"
    assert "components" not in json.dumps(manifest), "no import paths in artifacts"


@pytest.mark.usefixtures("project")
def test_nothing_is_trained_twice_unless_fresh() -> None:
    first = go(SMALL)
    assert go(SMALL).skipped
    again = go(SMALL, fresh=True)
    assert not again.skipped
    assert again.run_id == f"{first.run_id}-2"
    assert equal(weights(first), weights(again)), "the same key gives the same weights"
    assert go(SMALL).run_id == again.run_id


@pytest.mark.usefixtures("project")
def test_stopped_and_resumed_ends_with_the_same_weights_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = go(SMALL)
    monkeypatch.setenv("GENLOOM_HOME", "elsewhere")
    folder = Path("elsewhere/runs").resolve() / straight.run_id

    def stop_at(line: dict[str, float]) -> None:
        if line["step"] == 30:
            (folder / "stop").touch()

    # the watcher runs beside the loop, so the loop is slowed to let it be seen
    with pytest.raises(FailedError, match="stopped by request"):
        slowly(lambda: train(open_project(), "digits-vae", SMALL, workers=0, progress=stop_at))
    stopped = load_run(folder)
    assert stopped.state == "stopped"
    assert 30 <= read_progress(stopped)[-1]["step"] < 60
    resumed = go(SMALL)
    assert not resumed.skipped
    assert equal(weights(straight), weights(resumed))
    assert [line["step"] for line in read_progress(load_run(folder))] == [10, 20, 30, 40, 50, 60]


def slowly(call: object) -> None:
    from components.train import loop

    real = loop.advance

    def slow(*arguments: object) -> object:
        time.sleep(0.05)
        return real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "advance", slow)
        call()  # type: ignore[operator]


@pytest.mark.parametrize("run", ["digits-vae", pytest.param("digits-gan", marks=pytest.mark.long)])
def test_kill_9_and_the_same_command_end_with_the_same_weights(
    project: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    overrides = ["train.steps=120", *SHORT[1:], "train.schedule=wsd", "train.warmup=15", "train.decay=0.5"]
    overrides.append("train.accumulate=2")
    straight = go(overrides, run)
    home = project / "killed"
    folder = home / "runs" / straight.run_id
    command = [
        sys.executable,
        "-c",
        "from flows.commands.main import main; main()",
        "train",
        run,
        "--workers",
        "0",
    ]
    for override in overrides:
        command += ["--set", override]
    environment = {**os.environ, "GENLOOM_HOME": str(home)}
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: bool(checkpoint.checkpoints(folder)), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "artifact").exists(), "killed half-way"
    monkeypatch.setenv("GENLOOM_HOME", str(home))
    assert load_run(folder).interrupted
    resumed = go(overrides, run)
    assert resumed.run_id == straight.run_id
    assert equal(weights(straight), weights(resumed))
    factors = {line["step"]: line["lr_factor"] for line in read_progress(load_run(folder))}
    assert [factors[step] for step in (10, 20, 60, 90, 120)] == pytest.approx([10 / 15, 1, 1, 0.5, 0])


def wait_for(happened: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    until(lambda: happened() or process.poll() is not None)
    assert process.poll() is None, "the training ended before it could be killed"


@pytest.mark.usefixtures("project")
def test_a_damaged_checkpoint_is_passed_over_and_an_artifact_made_again() -> None:
    trained = go(SMALL)
    expected = weights(trained)
    newest = checkpoint.checkpoints(trained.folder)[-1]
    (newest / "networks.safetensors").write_bytes(b"damaged")
    (trained.folder / "checkpoints" / ".step-000000099-1").mkdir()
    (trained.artifact / "networks.safetensors").write_bytes(b"damaged")
    again = go(SMALL)
    assert again.run_id == trained.run_id
    assert not again.skipped
    assert equal(weights(again), expected), "from step 40 to step 60 once more"
    assert not list(trained.folder.glob("checkpoints/.*")), "what a killed process left is swept away"
    for path in checkpoint.checkpoints(trained.folder):
        (path / "state.json").write_text("{")
    (trained.artifact / "model.json").write_text("{")
    with pytest.raises(FailedError, match=r"All checkpoints in .* are damaged; delete that folder"):
        go(SMALL)


@pytest.mark.usefixtures("project")
def test_what_was_sent_to_the_run_log_is_not_sent_again_and_fresh_goes_on() -> None:
    from components.tracking import Tracker, open_client

    def go_on(fresh: bool) -> Trained:
        return train(open_project(), "digits-vae", SMALL, workers=0, fresh=fresh, progress=stop_at)

    first = go(SMALL)
    second = open_project().settings.runs / f"{first.run_id}-2"

    def stop_at(line: dict[str, float]) -> None:
        if line["step"] == 30 and not (second / "stopped").exists():
            (second / "stop").touch()
            (second / "stopped").touch()

    with pytest.raises(FailedError, match="stopped by request"):
        slowly(lambda: go_on(True))
    resumed = go_on(True)
    assert resumed.run_id == f"{first.run_id}-2", "the same command goes on"
    assert equal(weights(first), weights(resumed))
    settings = open_project().settings
    assert isinstance(Tracker(settings), Tracker)
    history = open_client(settings).get_metric_history(resumed.tracking_run, "loss/autoencoder")
    assert sorted(entry.step for entry in history) == [10, 20, 30, 40, 50, 60]


@pytest.mark.usefixtures("project")
def test_weights_that_are_not_finite_never_become_a_checkpoint() -> None:
    from components.train import loop

    real = loop.advance

    def poisoned(trainee: Trainee, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        logged = real(trainee, batch, step)
        if step == 39:
            next(trainee.networks["autoencoder"].parameters()).data.fill_(float("nan"))
        return logged

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "advance", poisoned)
        with pytest.raises(FailedError, match=r"weights .* not finite at step 40; .*step-000000020"):
            go(SMALL)
    assert not go(SMALL).skipped, "the same command goes on from step 20"


def test_one_damaged_run_does_not_hide_the_others(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = go(SMALL)
    bad = project / ".genloom" / "runs" / "bad"
    bad.mkdir()
    (bad / "run.json").write_text("{")
    assert [run.id for run in read_runs(open_project().settings)] == [trained.run_id]
    assert "bad/run.json is damaged" in caplog.text


@pytest.mark.usefixtures("project")
def test_the_records_say_how_many_workers_there_were() -> None:
    trained = go(SMALL)
    manifest = json.loads((trained.artifact / "model.json").read_text())
    assert manifest["about"]["parameters"]["train"]["workers"] == 0


def test_no_space_while_training_is_one_sentence_and_leaves_no_draft(project: Path) -> None:
    """A limit on the size of files stands in for a full disk: the checkpoint does not fit."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
        "from flows.commands.main import main; main()"
    )
    arguments = ["train", "digits-vae", "--workers", "0", "--set", "train.steps=20"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("genloom: File too large")
    assert "Traceback" not in done.stderr
    (folder,) = (project / ".genloom" / "runs").iterdir()
    assert not list(folder.glob("checkpoints/*"))
    assert not list(folder.glob("checkpoints/.*"))


@pytest.mark.usefixtures("project")
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint() -> None:
    overrides = [*SMALL, "train.clip=0", "model.lr=10", "train.checkpoint_every=1", "model.depth=4"]
    poison()
    with pytest.raises(
        FailedError, match=r"not finite at step 7; the last good checkpoint is .*step-000000006\."
    ):
        go(overrides)
    assert read_run(open_project().settings, "digits-vae").state == "failed"


def poison() -> None:
    """The seventh loss becomes infinite, as after an overflow."""
    from components.families.vae import VAE

    real = VAE.loss
    patch = pytest.MonkeyPatch()

    def overflow(self: VAE, name: str, networks: object, batch: object, step: int) -> object:
        loss, logged = real(self, name, networks, batch, step)  # type: ignore[arg-type]
        if step == 6:
            patch.undo()
            return loss * float("inf"), logged
        return loss, logged

    patch.setattr(VAE, "loss", overflow)


@pytest.mark.usefixtures("project")
def test_averages_are_what_is_saved_and_bf16_trains() -> None:
    averaged, plain = go(SMALL), go([*SMALL, "train.ema=0"])
    assert not equal(weights(averaged), weights(plain))
    half = go([*SMALL, "train.precision=bf16"])
    loss = read_progress(load_run(half.folder))[-1]["loss/autoencoder"]
    assert loss == pytest.approx(read_progress(load_run(averaged.folder))[-1]["loss/autoencoder"], rel=0.1)
    assert all(value.dtype == torch.float32 for value in weights(half).values())


@pytest.mark.parametrize(
    ("run", "overrides", "sentence"),
    [
        ("digit-vae", [], "There is no run “digit-vae”; did you mean digits-vae"),
        (
            "digits-vae",
            ["model.latnt=3"],
            "no field of the family vae “model.latnt”; did you mean model.latent",
        ),
        ("digits-vae", ["train.step=3"], "no field “train.step”; did you mean train.steps"),
        ("digits-vae", ["model.latent=0"], "model.latent = 0 is out of range: at least 1"),
        ("digits-vae", ["model.latent=many"], "model.latent = 'many' must be of the kind"),
        ("digits-vae", ["train.steps=0"], "train.steps is 0"),
        ("digits-vae", ["train.ema=1.5"], "train.ema is 1.5"),
        ("digits-vae", ["train.schedule=linear"], "train.schedule is 'linear': Input should be 'constant'"),
        (
            "digits-vae",
            ["train.steps=99", "train.warmup=99"],
            "train.warmup = 99 leaves nothing of train.steps = 99",
        ),
        ("digits-vae", ["train.accumulate=65"], "train.accumulate is 65 and a worker has 64 of the 64 rows"),
        (
            "digits-gan",
            ["train.compile=true"],
            "gan takes gradients of gradients, which torch.compile cannot",
        ),
        ("digits-gan", ["train.distribute=fsdp2"], "gan takes gradients of gradients, which FSDP2 cannot"),
        (
            "digits-vae",
            ["train.batch=5000"],
            "train.batch is 5000 and the dataset digits has 1413 training rows",
        ),
        ("digits-vae", ["latent"], "“latent” is no assignment"),
        ("digits-vae", ["latent=3"], "“latent” belongs to no table; write --set model.latent=…"),
        ("digits-vae", ["train.steps=2020-13-45"], "cannot be read as YAML"),
        ("digits-vae", ["init=digits/7"], "digits"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_use_is_one_sentence_before_anything_starts(
    run: str, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(open_project(), run, overrides, workers=0)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(open_project().settings.runs.glob("*"))


def test_the_key_holds_what_decides_the_weights_and_nothing_else(project: Path) -> None:
    key = plan_of(open_project(), "digits-vae").key
    assert plan_of(open_project(), "digits-vae", ["train.workers=2", "train.log_every=7"]).key == key
    assert plan_of(open_project(), "digits-vae", ["train.distribute=fsdp2"]).key == key
    assert plan_of(open_project(), "digits-vae", ["train.schedule=cosine"]).key != key
    assert plan_of(open_project(), "digits-vae", ["train.accumulate=2"]).key != key
    assert plan_of(open_project(), "digits-vae", ["model.latent=17"]).key != key
    assert plan_of(open_project(), "digits-vae", ["train.seed=1"]).key != key
    assert plan_of(open_project(), "digits-gan").key != key


@pytest.mark.usefixtures("project")
def test_compiling_without_a_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(
        UserError, match=r"train\.compile needs a C\+\+ compiler and none was found; install g"
    ):
        train(open_project(), "digits-vae", ["train.compile=true"], workers=0)
    cpp_builder.cpp_compiler_search.cache_clear()


def test_two_trainings_of_the_same_run_do_not_meet(project: Path) -> None:
    from filelock import FileLock

    first = go(SMALL)
    with (
        FileLock(first.folder / "lock"),
        pytest.raises(UserError, match="is being trained by another process"),
    ):
        go(SMALL)


@pytest.mark.usefixtures("project")
def test_a_picture_at_which_a_training_was_killed_is_drawn_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("components.train.loop._picture", killed)
        with pytest.raises(KeyboardInterrupt):
            go(["train.sample_every=20", *SMALL[:3], *SMALL[4:]])
    trained = go(["train.sample_every=20", *SMALL[:3], *SMALL[4:]])
    names = sorted(path.stem for path in (trained.folder / "samples").iterdir())
    assert names == ["step-000000020", "step-000000040", "step-000000060"]


@pytest.mark.usefixtures("project")
def test_what_ends_a_training_from_outside_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminationSignal(BaseException):
        """As Prefect makes of SIGTERM."""

    def ended(*_: object) -> None:
        raise TerminationSignal

    monkeypatch.setattr("components.train.loop.advance", ended)
    with pytest.raises(TerminationSignal):
        go(SMALL)
    (record,) = read_runs(open_project().settings)
    assert (record.state, record.reason) == ("stopped", "TerminationSignal")
