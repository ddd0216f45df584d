"""GPTs in Hugging Face's format: an artifact as a folder that `transformers` loads, and such a folder as a start.

With `qk_norm` a GPT is a Qwen3, without it a Llama; only the names differ, and that our matrices of queries, keys
and values, and of gate and up, are one each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from components.artifact import About, Model, load, save
from components.data.dataset import Dataset, file_hash
from components.errors import UserError
from components.families.family import Family
from components.families.gpt import GPT
from components.families.layers.norm import EPSILON
from components.folders import new_folder
from components.modalities.text import Text
from components.modalities.tokenizer import FILES, load_tokenizer, load_vocabulary
from components.settings import expanded

ARCHITECTURES = {True: ("qwen3", "Qwen3ForCausalLM"), False: ("llama", "LlamaForCausalLM")}
"""The model type and the class by `qk_norm`."""
OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
INNER = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.scale": ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    "attention.out.weight": ("self_attn.o_proj.weight",),
    "mlp_norm.weight": ("post_attention_layernorm.weight",),
    "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.down.weight": ("mlp.down_proj.weight",),
}
"""Our names within a block, and those of the matrices that stand in each from top to bottom."""
PREFIX = "decoder."


def export_hf(artifact: Path, folder: Path) -> Path:
    """Write the GPT in `artifact` as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    `folder` must not exist or be empty. Raises `UserError` for another family and for a folder in use.
    """
    model = load(artifact, packed=False)
    if type(model.family) is not GPT:
        name = type(model.family).__module__.rpartition(".")[2]
        raise UserError(f"Hugging Face's format is for the family gpt, and {artifact} holds a {name}.")
    if not isinstance(model.modality, Text):
        raise UserError(f"Hugging Face's format is for text, and {artifact} makes {model.modality.makes}.")
    folder = expanded(folder, "The folder").resolve()
    with new_folder(folder) as draft:
        named = dict(_theirs(model.networks["decoder"].state_dict(), model.family))
        (draft / "model.safetensors").write_bytes(to_bytes(named, {"format": "pt"}))
        (draft / "config.json").write_text(json.dumps(_config(model), indent=2), encoding="utf-8")
        for name in FILES:
            shutil.copyfile(artifact / name, draft / name)
    return folder


def _theirs(state: Mapping[str, Tensor], family: GPT) -> Iterator[tuple[str, Tensor]]:
    """Our weights under Hugging Face's names, fused matrices taken apart."""
    for ours, name in OUTER.items():
        yield name, state[ours]
    for layer in range(family.layers):
        for ours, names in INNER.items():
            if f"blocks.{layer}.{ours}" not in state:
                continue
            fused = state[f"blocks.{layer}.{ours}"]
            sizes = _rows(ours, family, len(fused))
            parts = fused if ours == "attention.scale" else torch.split_with_sizes(fused, sizes)
            for name, part in zip(names, parts, strict=True):
                yield f"model.layers.{layer}.{name}", part.contiguous()


def _rows(ours: str, family: GPT, every: int) -> list[int]:
    """The rows of each matrix that stands in the fused one."""
    if ours == "attention.qkv.weight":
        size, keys = family.head_size, (family.kv_heads or family.heads)
        return [family.heads * size, keys * size, keys * size]
    return [every // 2] * 2 if ours == "mlp.gate_up.weight" else [every]


def _config(model: Model) -> dict[str, Any]:
    """The `config.json` of a GPT."""
    family = model.family
    assert isinstance(family, GPT)
    kind, architecture = ARCHITECTURES[family.qk_norm]
    tokenizer = load_tokenizer(model.modality.folder) if model.modality.folder else None
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": model.shape.vocabulary,
        "hidden_size": family.width,
        "intermediate_size": family.inner,
        "num_hidden_layers": family.layers,
        "num_attention_heads": family.heads,
        "num_key_value_heads": family.kv_heads or family.heads,
        "head_dim": family.head_size,
        "max_position_embeddings": model.shape.data[0],
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": family.theta},
        "rope_theta": family.theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": 0,
        "eos_token_id": tokenizer.turn if tokenizer else 0,
        "pad_token_id": 0,
        "dtype": "float32",
    }


def start_from_hf(folder: Path, family: Family, dataset: Dataset, cache: Path) -> Path:
    """The Qwen3 or Llama in `folder` as an artifact for `dataset`, kept in `cache`; raises `UserError`.

    Its tokens keep their vectors where the dataset's tokenizer has a token of the same text; others begin with the
    mean of all. The settings of `family` must be the folder's.
    """
    config = read_config(folder)
    try:
        settings = settings_of(folder, config)
    except KeyError as error:
        raise UserError(f"The config.json of {folder} lacks {error}; copy the folder again.") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"The config.json of {folder} cannot be read ({error}); copy the folder again."
        ) from error
    if not (folder / FILES[0]).is_file():
        raise UserError(f"{folder} has no {FILES[0]}; save its tokenizer beside the model.")
    if not isinstance(dataset.tensors, Text):
        raise UserError(
            f"{folder} holds a model of text, and the dataset {dataset.name} holds {dataset.tensors.makes}; leave init "
            "out."
        )
    if type(family) is not GPT:
        raise UserError(
            f"{folder} is a {config['model_type']}; only runs of the family gpt can start from it."
        )
    ours = {name: _resolved(family)[name] for name in settings}
    if ours != settings:
        wanted = ", ".join(f"{name}: {_yaml(value)}" for name, value in settings.items())
        raise UserError(f"{folder} holds a model of other settings; write model: {{{wanted}}} into the run.")
    files = [*sorted(folder.glob("*.safetensors")), folder / FILES[0]]
    keys = [*map(file_hash, files), *(file_hash(dataset.folder / name) for name in FILES), str(dataset.shape)]
    target = cache / hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]
    if not (target / "model.json").is_file():
        _convert(folder, family, dataset, target)
    return target


def settings_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model:` settings that a `config.json` means; raises `UserError` for what a GPT does not compute."""
    kinds = {kind: norm for norm, (kind, _) in ARCHITECTURES.items()}
    kind = config.get("model_type")
    if kind not in kinds:
        raise UserError(f"{folder} holds a model of the type {kind!r}; a GPT can start from qwen3 or llama.")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    odd = {
        "attention_bias": config.get("attention_bias", False),
        "mlp_bias": config.get("mlp_bias", False),
        "an output matrix of its own": not config.get("tie_word_embeddings", False),
        "quantised weights": "quantization_config" in config,
        "sliding windows": config.get("use_sliding_window", False),
        "another activation than silu": config.get("hidden_act", "silu") != "silu",
        f"rms_norm_eps of {config.get('rms_norm_eps', EPSILON)}": config.get("rms_norm_eps", EPSILON)
        != EPSILON,
        "scaled rotary positions": rope.get("rope_type", rope.get("type", "default")) != "default",
    }
    found = [name for name, there in odd.items() if there]
    if found:
        raise UserError(f"The model in {folder} has {found[0]}, which the family gpt does not compute.")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    return {
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "width": width,
        "size": config.get("head_dim") or width // heads,
        "hidden": config["intermediate_size"],
        "qk_norm": kinds[kind],
        "theta": float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
    }


def _resolved(family: GPT) -> dict[str, Any]:
    """The settings of a family with what 0 stands for."""
    stated = dataclasses.asdict(family)
    return stated | {
        "kv_heads": family.kv_heads or family.heads,
        "hidden": family.inner,
        "size": family.head_size,
    }


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder in Hugging Face's format; raises `UserError`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} has no readable config.json; name a folder that transformers' save_pretrained wrote."
        ) from error


def _convert(folder: Path, family: GPT, dataset: Dataset, target: Path) -> None:
    """Write the artifact."""
    theirs = _weights(folder)
    networks = family.networks(dataset.shape)
    state = networks["decoder"].state_dict()
    try:
        for ours, name in OUTER.items():
            state[ours] = theirs[name]
        for key in list(state):
            layer, _, inner = key.removeprefix("blocks.").partition(".")
            if inner in INNER:
                parts = [theirs[f"model.layers.{layer}.{name}"] for name in INNER[inner]]
                state[key] = torch.stack(parts) if inner == "attention.scale" else torch.cat(parts)
        state["embedding.weight"] = _transplanted(folder, state["embedding.weight"], dataset)
        networks["decoder"].load_state_dict(state)
    except KeyError as error:
        raise UserError(f"{folder} lacks the weight {error.args[0]}; copy the folder again.") from error
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        raise UserError(f"The weights in {folder} are not as its config.json says ({cause}).") from error
    save(target, family, networks, dataset.shape, _about(folder, dataset), dataset.folder)


def _weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, also where they are spread over several files, as float32."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors; save the model with safe_serialization.")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found |= {name: value.float() for name, value in load_file(file).items()}
        except SafetensorError as error:
            raise UserError(f"{file} is no whole safetensors file ({error}); copy it again.") from error
    return found


def _transplanted(folder: Path, vectors: Tensor, dataset: Dataset) -> Tensor:
    """Their vectors [V′, width] in the order of the dataset's tokens, [V, width]."""
    theirs = load_vocabulary(folder)
    ours = load_tokenizer(dataset.folder).core.get_vocab()
    placed = vectors.mean(0).repeat(len(ours), 1)
    for token, place in ours.items():
        if theirs.get(token, len(vectors)) < len(vectors):
            placed[place] = vectors[theirs[token]]
    return placed


def _about(folder: Path, dataset: Dataset) -> About:
    return About(
        product=dataset.name,
        run=f"hf:{folder.name}",
        dataset=dataset.name,
        revision=dataset.revision,
        licence=dataset.licence,
        source=f"hf:{folder.name}",
        classes=[],
        modality=dataset.modality,
        key="",
        parameters={},
        commit="",
        dirty=False,
        steps=0,
    )
