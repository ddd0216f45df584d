"""Hugging Face's format against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components import artifact
from components.data.dataset import Dataset
from components.errors import UserError
from components.export import export_hf, settings_of, start_from_hf
from components.families.family import Shape
from components.families.gpt import GPT
from components.families.lstm import LSTM
from components.modalities.tokenizer import train_tokenizer
from components.train.step import networks_for
from tests.components.families.rows import an_about

TEXT = "the quick brown fox jumps over the lazy dog"
SMALL: dict[str, Any] = {"layers": 2, "heads": 4, "kv_heads": 2, "width": 32, "hidden": 48}


def made(folder: Path, family: Any, text: str = TEXT) -> Path:
    """An artifact with random weights, none of them zero, on the characters of `text`."""
    tokenizer = train_tokenizer("characters", [text], 0, chat=True)
    folder.mkdir()
    tokenizer.save(folder)
    shape = Shape(data=(24,), vocabulary=tokenizer.vocabulary, prompt=(24, tokenizer.vocabulary))
    networks = networks_for(family, shape, 0)
    with torch.no_grad():
        for network in networks.values():
            for weight in network.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    artifact.save(folder / "model", family, networks, shape, an_about(shape), folder)
    return folder / "model"


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    return made(tmp_path / "made", GPT(**SMALL))


def dataset_of(folder: Path) -> Dataset:
    """The dataset that the artifact in `folder`/model was made for, without its rows."""
    shape = artifact.load(folder / "model").shape
    return Dataset(folder, "d", "text", "0", shape, (), "CC0", "made", {})


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("size", [0, 16])
def test_transformers_computes_the_same_logits(tmp_path: Path, qk_norm: bool, size: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = made(tmp_path / "made", GPT(**SMALL, qk_norm=qk_norm, size=size, theta=5_000.0))
    exported = export_hf(folder, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(exported).eval()
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    ours = artifact.load(folder)
    tokens = torch.randint(1, ours.shape.vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = ours.networks["decoder"](tokens) - theirs(tokens).logits
    assert float(difference.abs().max()) < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(exported)
    chat = [{"role": "user", "content": "the fox"}]
    assert tokenizer(TEXT)["input_ids"] == ours.modality.tokenizer.encode(TEXT)  # type: ignore[attr-defined]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert rendered == ours.modality.tokenizer.chat(chat)  # type: ignore[attr-defined]


def test_what_transformers_saved_starts_a_run_with_the_same_logits(gpt: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = export_hf(gpt, tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    model.save_pretrained(tmp_path / "tuned", max_shard_size="10KB")
    AutoTokenizer.from_pretrained(exported).save_pretrained(tmp_path / "tuned")
    start = start_from_hf(tmp_path / "tuned", GPT(**SMALL), dataset_of(gpt.parent), tmp_path / "cache")
    assert start == start_from_hf(
        tmp_path / "tuned", GPT(**SMALL), dataset_of(gpt.parent), tmp_path / "cache"
    )
    tokens = torch.randint(1, 20, (2, 20))
    with torch.no_grad():
        ours = artifact.load(start).networks["decoder"](tokens)
        assert torch.allclose(ours, model.eval()(tokens).logits, atol=1e-5)


def test_tokens_keep_their_vectors_in_another_vocabulary(gpt: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", GPT(**SMALL), "the new words: 0123")
    exported = export_hf(gpt, tmp_path / "hf")
    start = start_from_hf(exported, GPT(**SMALL), dataset_of(other.parent), tmp_path / "cache")
    before, after = (load_file(path / artifact.WEIGHTS)["decoder.embedding.weight"] for path in (gpt, start))
    old, new = (artifact.load(path).modality.tokenizer.core.get_vocab() for path in (gpt, other))  # type: ignore[attr-defined]
    assert torch.equal(after[new["t"]], before[old["t"]])
    assert torch.allclose(after[new["0"]], before.mean(0))
    assert after.shape == (len(new), 32)


def test_settings_that_differ_are_written_out(gpt: Path, tmp_path: Path) -> None:
    exported = export_hf(gpt, tmp_path / "hf")
    with pytest.raises(UserError, match=r"write model: \{layers: 2, heads: 4"):
        start_from_hf(exported, GPT(layers=3), dataset_of(gpt.parent), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "of the type 'gpt2'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": False}, "an output matrix of its own"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps of 1e-05"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaled rotary"),
    ],
)
def test_an_architecture_that_is_not_ours_is_one_sentence(
    gpt: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    exported = export_hf(gpt, tmp_path / "hf")
    config = json.loads((exported / "config.json").read_text()) | change
    with pytest.raises(UserError, match=said):
        settings_of(exported, config)


def test_a_folder_that_is_damaged_or_none_is_one_sentence(gpt: Path, tmp_path: Path) -> None:
    dataset, family = dataset_of(gpt.parent), GPT(**SMALL)
    with pytest.raises(UserError, match="no readable config"):
        start_from_hf(tmp_path / "nowhere", family, dataset, tmp_path / "cache")
    exported = export_hf(gpt, tmp_path / "hf")
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="no whole safetensors file"):
        start_from_hf(exported, family, dataset, tmp_path / "cache")
    weights.unlink()
    with pytest.raises(UserError, match="holds no"):
        start_from_hf(exported, family, dataset, tmp_path / "cache")


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": 0, "head_dim": None}, {"rope_parameters": "x"}, {"model_type": ["llama"]}],
)
def test_a_config_of_wrong_values_is_one_sentence(gpt: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    exported = export_hf(gpt, tmp_path / "hf")
    path = exported / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"config\.json of .* cannot be read"):
        start_from_hf(exported, GPT(**SMALL), dataset_of(gpt.parent), tmp_path / "cache")


def test_what_a_folder_lacks_is_named(gpt: Path, tmp_path: Path) -> None:
    dataset, family = dataset_of(gpt.parent), GPT(**SMALL)
    exported = export_hf(gpt, tmp_path / "hf")
    config = json.loads((exported / "config.json").read_text())
    with pytest.raises(UserError, match="quantised"):
        settings_of(exported, config | {"quantization_config": {}})
    (exported / "config.json").write_text(json.dumps(config | {"vocab_size": 3, "intermediate_size": 64}))
    with pytest.raises(UserError, match=r"are not as its config\.json says"):
        start_from_hf(exported, GPT(**SMALL | {"hidden": 64}), dataset, tmp_path / "cache")
    (exported / "config.json").write_text('{"model_type": "qwen3", "tie_word_embeddings": true}')
    with pytest.raises(UserError, match="lacks 'num_attention_heads'"):
        start_from_hf(exported, family, dataset, tmp_path / "cache")
    (exported / "config.json").write_text(json.dumps(config))
    (exported / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        start_from_hf(exported, family, dataset, tmp_path / "cache")


def test_only_a_gpt_is_exported_and_only_into_an_empty_folder(gpt: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        export_hf(gpt, tmp_path / "used")
    lstm = made(tmp_path / "made-lstm", LSTM(width=16))
    with pytest.raises(UserError, match="holds a lstm"):
        export_hf(lstm, tmp_path / "hf-lstm")


def test_a_run_starts_from_a_folder_and_trains_adapters_only(
    gpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way through the launcher: rows in params.yaml, a prepared dataset, one step, the merged artifact."""
    from components.project import open_project
    from components.train.launch import train
    from tests.components.evaluation.corpora import prepared

    exported = export_hf(gpt, tmp_path / "hf")
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").write_text(
        "datasets: {d: {source: text, path: t.txt, context: 24}}\n"
        "products: {d: {dataset: d, task: prompt}}\n"
        "runs:\n"
        f"  tuned: {{product: d, family: gpt, init: 'hf:{exported}', "
        "model: {layers: 2, heads: 4, kv_heads: 2, width: 32, hidden: 48}, "
        "train: {steps: 2, batch: 4, ema: 0.0, workers: 0, adapters: 2}}\n"
    )
    prepared(
        project / "data" / "prepared" / "d",
        {"train": [TEXT, *TEXT.split()], "val": ["fox"], "test": ["dog"]},
        width=24,
    )
    trained = train(open_project(project), "tuned", workers=0)
    before, after = load_file(gpt / artifact.WEIGHTS), load_file(trained.artifact / artifact.WEIGHTS)
    assert before.keys() == after.keys()
    name = "decoder.blocks.0.attention.qkv.weight"
    assert int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6)) == 2
    assert torch.equal(before["decoder.norm.weight"], after["decoder.norm.weight"])
