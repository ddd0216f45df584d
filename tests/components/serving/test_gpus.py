"""What is said and done about GPUs where there is none: Ray believes in one that is declared, torch does not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components import compiler
from components.artifact import Model, load
from components.cluster import Capacity
from components.errors import FailedError, UserError
from components.families.family import Networks, Requests, State
from components.families.vae import VAE
from components.serving import app, catalog, computing, follow
from components.serving.applications import Application
from components.serving.catalog import Catalog, Served, open_version
from components.serving.course import NotNowError
from components.serving.declared import NAME, Replicas
from components.serving.engine import Engine, FullError
from components.serving.follow import Follower
from components.serving.records import Record, read
from components.serving.replay import replay
from components.serving.routes.models import describe
from components.settings import Settings
from components.terms import Terms
from tests.components.serving.conftest import free_port

without = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
SEES_NONE = "is to be computed on a GPU, and torch sees none in this process"


def a_record(device: str) -> dict[str, object]:
    """A record as it is written, of a request that was computed on `device`."""
    fields: dict[str, object] = {one.name: "a" for one in dataclasses.fields(Record)}
    numbers = {"version": 1, "width": 16, "threads": 1, "seed": 7, "rows": 1, "seconds": 0.1}
    return {**fields, **numbers, "body": None, "compile": False, "precision": "fp32", "device": device}


@without
def test_a_version_for_a_gpu_is_not_opened_without_one(artifact: Callable[..., Path], tmp_path: Path) -> None:
    served = Served("digits", 3, artifact(tmp_path / "artifact"), 0, device="cuda")
    with pytest.raises(UserError, match=f"digits/3 {SEES_NONE}; mend the driver, .* or set gpus to 0"):
        open_version(served, Settings(home=tmp_path / "home"))


def test_a_version_says_that_it_is_computed_on_the_cpu(artifact: Callable[..., Path], tmp_path: Path) -> None:
    served = Served("digits", 1, artifact(tmp_path / "artifact"), 0)
    loaded = open_version(served, Settings(home=tmp_path / "home"))
    assert describe(loaded)["device"] == "cpu"
    Catalog({"digits": loaded}).close()


@without
def test_what_a_gpu_computed_is_not_replayed_without_one(tmp_path: Path) -> None:
    record = Record(**a_record("cuda"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"was computed on a GPU, .* replay it on a machine that has one"):
        replay(Settings(home=tmp_path), record, Terms())


def test_a_record_of_before_is_one_of_the_cpu(tmp_path: Path) -> None:
    old = a_record("cuda")
    del old["device"]
    (tmp_path / "2026-01-01.jsonl").write_text(
        f"{json.dumps(old)}\n{json.dumps(a_record('cuda'))}\n", encoding="utf-8"
    )
    assert [record.device for record in read(tmp_path)] == ["cuda", "cpu"]


def test_compiling_for_a_gpu_without_triton_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "found", lambda: True)
    monkeypatch.setattr(compiler, "writes_kernels", lambda: False)
    computing.check("digits", Terms(compile=True), "cpu")
    computing.check("digits", Terms(), "cuda")
    with pytest.raises(
        UserError, match="needs Triton, and there is none; install triton, or set its compile"
    ):
        computing.check("digits", Terms(compile=True), "cuda")


def test_the_free_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert computing._free(torch.device("cuda")) == 1200
    assert computing._free(torch.device("cpu")) > 9000


def test_a_gpu_without_room_for_a_version_is_not_the_versions_fault(
    artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Model:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.\nAnd more words.")

    served = Served("digits", 3, artifact(tmp_path / "artifact"), 0)
    settings = Settings(home=tmp_path / "home")
    monkeypatch.setattr(catalog, "load", full)
    monkeypatch.setattr(follow, "intact", lambda *_: served)
    with pytest.raises(FullError, match="The GPU has no memory left for digits/3; end what else is on it"):
        open_version(served, settings)
    follower = Follower(Catalog({}), settings)
    with pytest.raises(NotNowError):
        follower._open(served, 3, "")
    follower.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full(VAE):
    """Finds no memory for an odd seed: at the start of a row for 1, in a step for others."""

    def start(self, networks: Networks, requests: Requests) -> State:
        if bool((requests.seed == 1).any()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.\nAnd more words.")
        return super().start(networks, requests)

    def advance(self, networks: Networks, state: State) -> State:
        if bool(((state.seed % 2 == 1) & ~state.done).any()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.\nAnd more words.")
        return super().advance(networks, state)


@pytest.mark.parametrize("seed", [1, 3])
def test_an_engine_without_memory_tells_gives_it_back_and_goes_on(
    seed: int, artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    model = load(artifact(tmp_path / "artifact"))
    engine = Engine(dataclasses.replace(model, family=Full(latent=4, width=32, depth=1)), 4)
    try:
        engine.submit(Requests(seed=torch.tensor([2]))).result(30)
        assert emptied == []
        with pytest.raises(FailedError) as told:
            engine.submit(Requests(seed=torch.tensor([seed]))).result(30)
        assert str(told.value) == (
            "The GPU has no memory left for what the model was to generate; ask again, or for less."
        )
        engine.submit(Requests(seed=torch.tensor([2]))).result(30)
        assert emptied == [True]
    finally:
        engine.close()


def test_what_an_application_has_is_kept_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served("digits", 1, tmp_path, 0)
    before = Application(NAME, "/", (served,), Replicas(min=2, max=2), gpus=0.5)
    held, done = [before], []
    monkeypatch.setattr(app, "applications", lambda: held)
    monkeypatch.setattr(app, "put", lambda application, _: done.append(application))
    monkeypatch.setattr(app.cluster, "capacity", lambda: Capacity(cpus=1, gpus=2))
    settings = Settings(home=tmp_path)
    app.roll_out([served], settings)
    app.roll_out([served], settings, replicas=1)
    app.roll_out([served], settings, gpus=0)
    found = [(one.replicas.max, one.gpus, one.device) for one in done]
    assert found == [(2, 0.5, "cuda"), (1, 0.5, "cuda"), (2, 0, "cpu")]
    with pytest.raises(UserError, match=r"2 × 1 \(genloom\) \+ 1 .* = 3 GPUs, and there are 2; lower gpus"):
        app.roll_out([served], settings, gpus=1)


DECLARED = f"""
import sys
from pathlib import Path
from components import cluster
from components.settings import Settings

settings = Settings(home=Path(sys.argv[1]))
cluster.prepare_environment(settings)
import ray
from components.errors import FailedError
from components.serving import app
from components.serving.applications import Application
from components.serving.catalog import Served

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False,
         object_store_memory=cluster.OBJECT_STORE)
try:
    app.open_proxy("127.0.0.1", int(sys.argv[3]), settings)
    served = Served("digits", 3, Path(sys.argv[2]), 0)
    app.put(Application("{NAME}", "/", (served,), gpus=0.5), settings)
except FailedError as error:
    print(error)
finally:
    ray.shutdown()
"""
"""Serves on a GPU that is declared to Ray, and prints what becomes of it."""


@without
def test_a_replica_whose_torch_sees_no_gpu_says_so_in_one_sentence(
    artifact: Callable[..., Path], tmp_path: Path
) -> None:
    folder = artifact(tmp_path / "artifact")
    done = subprocess.run(
        [sys.executable, "-c", DECLARED, str(tmp_path / "home"), str(folder), str(free_port())],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.count("\n") == 1, done.stderr[-2000:]
    assert "Ray Serve could not start digits/3" in done.stdout
    assert f"digits/3 {SEES_NONE}" in done.stdout
