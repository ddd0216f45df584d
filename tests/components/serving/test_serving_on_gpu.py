"""Serving on a GPU: bits that depend on nobody else, every family, a stream, and memory that was full for a while."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from components import compiler
from components.artifact import Model, load, save
from components.errors import FailedError
from components.families.family import Networks, Requests, Shape, State, names
from components.families.vae import VAE
from components.promotion.registry import Registry
from components.serving import computing
from components.serving import engine as engine_module
from components.serving.catalog import Catalog, Served, open_version
from components.serving.engine import Engine
from components.serving.records import Recorder, read
from components.serving.replay import replay
from components.serving.routes.application import create_app
from components.settings import Settings
from components.terms import Terms
from tests.components.families.rows import an_about, assets_of, made, requests_of, shapes_of, stirred
from tests.components.serving.conftest import Site
from tests.until import until

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CASES = [(name, shape) for name in names() for shape in shapes_of(name)]
COMPLETE = "/v1/completions"
WIDTH = 4
PATIENCE = 120.0
"""Seconds that a GPU may take to be ready and to generate a few rows."""
LARGE = 2**30


def a_model(name: str, shape: Shape, folder: Path) -> Model:
    """A model with stirred weights, on the GPU."""
    family, networks = made(name, shape)
    assets = assets_of(shape, folder.with_name(f"{folder.name}-assets"))
    save(folder, family, stirred(networks), shape, an_about(shape), assets)
    return load(folder, "cuda")


def drawn(engine: Engine, shape: Shape, *seeds: int) -> list[Tensor]:
    """The rows of requests of one seed each, which begin together."""
    begin: list[Callable[[], None]] = []
    works = [engine.submit(requests_of([seed], shape), when=begin.append) for seed in seeds]
    begin[0]()
    return [work.result(PATIENCE) for work in works]


def check_alone_and_between_neighbours(model: Model) -> None:
    """A seed's bits are the same each time, whoever is there and in whatever place."""
    engine = Engine(model, WIDTH)
    try:
        assert engine.device == "cuda"
        (alone,) = drawn(engine, model.shape, 3)
        assert alone.device.type == "cpu"
        again = [*drawn(engine, model.shape, 3), drawn(engine, model.shape, 8, 3, 5, 1)[1]]
        again.append(drawn(engine, model.shape, 7, 2, 6, 4, 9, 3)[-1])
        assert [torch.equal(one, alone) for one in again] == [True] * 3
        if alone.is_floating_point():
            assert torch.isfinite(alone).all()
    finally:
        engine.close()


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a replica that was given a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_every_family_generates_the_same_between_neighbours(
    name: str, shape: Shape, precision: str, tmp_path: Path
) -> None:
    model = a_model(name, shape, tmp_path / "model")
    computing.prepare(model, Terms(precision="bf16" if precision == "bf16" else "fp32"), Settings())
    check_alone_and_between_neighbours(model)


@pytest.mark.parametrize("name", ["gan", "gpt"])
def test_what_is_compiled_does_so_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (compiler.writes_kernels() and compiler.found()):
        pytest.skip("there is no Triton, or no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "built"))
    model = a_model(name, shapes_of(name)[0], tmp_path / "model")
    computing.prepare(model, Terms(compile=True), Settings(home=tmp_path))
    check_alone_and_between_neighbours(model)


def test_a_version_opens_on_the_gpu_and_a_seed_gives_the_same_again(
    artifact: Callable[..., Path], tmp_path: Path
) -> None:
    served = Served("digits", 1, artifact(tmp_path / "artifact"), 0, device="cuda")
    files = []
    for _ in range(2):
        loaded = open_version(served, Settings(home=tmp_path / "home"))
        try:
            assert loaded.engine.device == "cuda"
            body = loaded.model.modality.request.model_validate({"seed": 7, "n": 3})
            files.append(loaded.generate(body, PATIENCE)[0])
        finally:
            loaded.engine.close()
    assert files[0] == files[1]
    assert len(set(files[0])) == 3


def test_a_text_streams_what_it_says_whole(talker: Callable[[Path], Path], tmp_path: Path) -> None:
    served = Served("tales", 1, talker(tmp_path / "artifact"), 0, device="cuda")
    loaded = open_version(served, Settings(home=tmp_path / "home"))
    body = {"prompt": "Once", "max_tokens": 40, "seed": 5, "logprobs": 2}
    with TestClient(create_app(Catalog({"tales": loaded}))) as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert model["device"] == "cuda"
        whole = client.post(COMPLETE, json=body)
        assert whole.status_code == 200, whole.text
        streamed = client.post(COMPLETE, json={**body, "stream": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
    said = "".join(choice["text"] for line in lines for choice in json.loads(line)["choices"])
    assert said == whole.json()["choices"][0]["text"]
    assert len(lines) > 2


def test_a_recorded_request_gives_the_same_again(site: Site, tmp_path: Path) -> None:
    registry = Registry(site.settings)
    version = registry.version("tales", "champion")
    terms = Terms("full")
    served = Served("tales", version.number, registry.fetch(version), 0, terms=terms, device="cuda")
    loaded = open_version(served, site.settings)
    recorder = Recorder(tmp_path / "records", days=30)
    with TestClient(create_app(Catalog({"tales": loaded}), recorder=recorder)) as client:
        assert client.post(COMPLETE, json={"prompt": "A", "max_tokens": 8}).status_code == 200
    (record,) = read(tmp_path / "records" / "tales")
    assert record.device == "cuda"
    assert replay(site.settings, record, terms).same


def test_there_are_as_many_rows_as_the_gpu_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model("gpt", shapes_of("gpt")[0], tmp_path / "model")
    assert computing.rows(model, Terms()) == model.width
    torch.cuda.empty_cache()
    each = computing._row_bytes(model)
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    room = int(3.5 * each / computing.SHARE) - kept
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (room, 2**40))
    assert 1 <= computing.rows(model, Terms()) < model.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hungry(VAE):
    """Wants more memory than there is whenever `full` is set, and has taken some before."""

    full: ClassVar[list[bool]] = []

    def advance(self, networks: Networks, state: State) -> State:
        if self.full:
            self.full.clear()
            taken = torch.empty(LARGE, dtype=torch.uint8, device=state.output.device)
            torch.empty(2**50, dtype=torch.uint8, device=taken.device)
        return super().advance(networks, state)


def test_an_engine_goes_on_after_the_memory_was_full(
    artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine_module.log, "disabled", True
    )  # pytest keeps what is logged, and all that its frames hold
    model = load(artifact(tmp_path / "artifact"), "cuda")
    engine = Engine(dataclasses.replace(model, family=Hungry(latent=4, width=32, depth=1)), WIDTH)
    try:
        requests = Requests(seed=torch.arange(6))
        expected = engine.submit(requests).result(PATIENCE)
        Hungry.full.append(True)
        with pytest.raises(
            FailedError, match="The GPU has no memory left for what the model was to generate"
        ):
            engine.submit(requests).result(PATIENCE)
        until(lambda: torch.cuda.memory_reserved() < LARGE)
        assert torch.equal(engine.submit(requests).result(PATIENCE), expected)
        assert engine.healthy
    finally:
        engine.close()
