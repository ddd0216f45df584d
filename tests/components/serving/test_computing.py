"""How a served model computes: shorter, or compiled, and with what comes out of it as good as before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components import compiler
from components.artifact import Model, load, save
from components.errors import UserError
from components.families.family import Requests, Shape, Task, kind_of, names
from components.serving import computing
from components.serving.catalog import Served, open_version
from components.settings import Settings
from components.terms import Terms
from tests.components.families.rows import (
    an_about,
    assets_of,
    made,
    requests_of,
    shapes_of,
    stirred,
    texts_of,
)

UNSHORTENED = frozenset({"attention_gan", "lstm", "stylegan2"})
"""Families that have no plain linear layer or convolution, as the contract test sizes them."""
DRAWN = frozenset({"vqvae", "wavenet"})
TEXT = Shape(data=(160,), vocabulary=30, prompt=(160, 30))


def a_model(name: str, shape: Shape, folder: Path) -> Model:
    family, networks = made(name, shape)
    assets = assets_of(shape, folder.with_name(f"{folder.name}-assets"))
    save(folder, family, stirred(networks), shape, an_about(shape), assets)
    return load(folder, packed=False)


def greedy(shape: Shape, seeds: list[int]) -> Requests:
    """Requests whose answers small differences hardly change."""
    requests = requests_of(seeds, shape)
    requests.options = {"temperature": torch.zeros(len(seeds)), "end": torch.full((len(seeds),), -2)}
    return requests


@pytest.mark.parametrize("name", names())
def test_every_family_generates_in_bfloat16(name: str, tmp_path: Path) -> None:
    shape = shapes_of(name)[0]
    usual, short = (a_model(name, shape, tmp_path / folder) for folder in ("usual", "short"))
    computing.prepare(short, Terms(precision="bf16"), Settings())
    kinds = {value.dtype for network in short.networks.values() for value in network.parameters()}
    assert torch.bfloat16 in kinds or name in UNSHORTENED
    requests = greedy(shape, [1, 2]) if shape.vocabulary else requests_of([1, 2], shape)
    outputs = [model.sample(requests, 2) for model in (usual, short)]
    assert outputs[1].dtype == outputs[0].dtype
    assert outputs[1].shape == outputs[0].shape
    if shape.vocabulary:
        assert ((outputs[1] >= -1) & (outputs[1] < shape.vocabulary)).all()
    else:
        assert torch.isfinite(outputs[1]).all()
        if (
            Task.FREE in kind_of(name).tasks and name not in DRAWN
        ):  # where codes or levels are drawn, a small step may be a large one
            assert (outputs[0] - outputs[1]).abs().mean() < 0.1


def test_layers_are_short_and_what_they_add_to_is_not(tmp_path: Path) -> None:
    model = a_model("gpt", TEXT, tmp_path / "model")
    computing.prepare(model, Terms(precision="bf16"), Settings())
    kinds = {name: value.dtype for name, value in model.networks["decoder"].state_dict().items()}
    short = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert short == {name for name in kinds if name.endswith(".layer.weight")}
    assert kinds["embedding.weight"] == torch.float32


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose folder takes what is compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "built"))
    return Settings(home=tmp_path / "home")


SLOW = pytest.mark.long


@pytest.mark.parametrize(
    "name", ["gpt", *(pytest.param(name, marks=SLOW) for name in ("lstm", "seq2seq", "wavenet"))]
)
def test_a_compiled_text_is_the_same_and_its_neighbours_leave_no_trace(
    name: str, tmp_path: Path, built: Settings
) -> None:
    """Prompts of different lengths, in three blocks of the cache."""
    shape = replace(TEXT, source=(9,)) if texts_of(name)[0].source else TEXT
    usual, model = (a_model(name, shape, tmp_path / folder) for folder in ("usual", "compiled"))
    computing.prepare(model, Terms(compile=True), built)
    requests = greedy(shape, [3, 5, 8])
    together = model.sample(requests, 3)
    assert torch.equal(together, usual.sample(requests, 3))
    for place, seed in enumerate([3, 5, 8]):
        assert torch.equal(model.sample(greedy(shape, [seed]), 3)[0], together[place])


@pytest.mark.parametrize(
    "name", ["gan", *(pytest.param(name, marks=SLOW) for name in ("diffusion", "vqvae", "wavenet"))]
)
def test_a_compiled_picture_is_the_same(name: str, tmp_path: Path, built: Settings) -> None:
    shape = shapes_of(name)[0]
    usual, model = (a_model(name, shape, tmp_path / folder) for folder in ("usual", "compiled"))
    computing.prepare(model, Terms(compile=True), built)
    requests = requests_of([1, 2], shape)
    assert torch.allclose(model.sample(requests, 4), usual.sample(requests, 4), atol=1e-4)


def test_compiling_without_a_compiler_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model("gan", shapes_of("gan")[0], tmp_path / "model")
    monkeypatch.setattr("components.compiler.found", lambda: False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and none was found; install g\+\+"):
        computing.prepare(model, Terms(compile=True), Settings())


def test_the_compilers_settings_hold_in_whatever_thread_computes() -> None:
    import torch._inductor.config as inductor

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(compiler.settled(lambda: (inductor.freezing, inductor.cpp_wrapper))).result()
        again = pool.submit(lambda: inductor.freezing).result()
    assert found == (True, True)
    assert again, "a thread keeps what it was set to"
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(lambda: inductor.freezing).result(), "those of others are as they were"


def test_there_are_as_many_rows_as_are_asked_for_or_as_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of text keeps its whole cache, which is measured and not estimated."""
    model = a_model("gpt", TEXT, tmp_path / "model")
    assert computing.rows(model, Terms()) == model.width
    assert computing.rows(model, Terms(rows=3)) == 3
    each = computing._row_bytes(model)
    family = model.family
    cache = 2 * 4 * family.layers * (family.kv_heads or family.heads) * family.head_size * TEXT.data[0]  # type: ignore[attr-defined]
    assert cache <= each < 2 * cache + 2**15
    for free, rows in ((5.5 * each, 5), (each / 2, 1)):
        monkeypatch.setattr(computing, "_free", lambda _, free=free: free / computing.SHARE)
        assert computing.rows(model, Terms()) == rows
    model.sample(requests_of([1], TEXT), 1)


def test_a_product_says_how_many_rows_its_replica_computes(tmp_path: Path) -> None:
    a_model("gan", Shape(data=(1, 8, 8)), tmp_path / "model")
    served = Served("digits", 1, tmp_path / "model", 0, terms=Terms(rows=3))
    loaded = open_version(served, Settings(home=tmp_path))
    assert loaded.engine.width == 3
    assert len(loaded.generate(loaded.model.modality.warm(loaded.model.shape))[0]) > 0
    loaded.engine.close()
