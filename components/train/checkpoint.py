"""Resume state on disk: weights, optimizers, averages, random state, data position, world size."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from components import files
from components.data.dataset import Position, file_hash
from components.errors import FailedError
from components.families.sampling import mix
from components.train.distribute import load_optimizer, load_weights, local, optimizer_state, whole
from components.train.step import Trainee

KEPT = 2
"""Checkpoints that stay: the last one, and the one before should the disk have failed."""


@dataclass(frozen=True)
class Resumed:
    """Where training goes on: after `step` steps, at `position` of the data."""

    step: int
    position: Position


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if (path / "state.json").is_file()]
    return sorted(found)


def save(folder: Path, trainee: Trainee, step: int, position: Position, rank: int) -> None:
    """Write the checkpoint of `step` below `folder`. All ranks call it; rank 0 writes, atomically."""
    states = _gather_random(trainee)
    content = _whole_content(trainee)
    if rank == 0:
        target = folder / "checkpoints" / f"step-{step:09d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.draft(target) as draft:
            draft.mkdir()
            state = {"step": step, "rows": position.rows, "world": trainee.world, "torch": torch.__version__}
            state["files"] = _write(draft, content, states)
            (draft / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    if trainee.world > 1:
        dist.barrier()


@dataclass(frozen=True)
class Content:
    """Whole weights and averages by `network.name`, and the states of all optimizers."""

    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    optimizers: dict[str, list[dict[str, Any]]]


def _whole_content(trainee: Trainee) -> Content:
    """What a checkpoint holds, gathered from the ranks where it is sharded."""
    return Content(
        _named({name: network.state_dict() for name, network in trainee.networks.items()}),
        _named({name: average.values for name, average in trainee.averages.items()}),
        {name: [optimizer_state(one) for one in group] for name, group in trainee.optimizers.items()},
    )


def _named(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": whole(value.detach()).cpu().contiguous()
        for name, values in networks.items()
        for key, value in values.items()
    }


def _write(draft: Path, content: Content, states: Tensor) -> dict[str, str]:
    """Write the files, and return the hash of each by its name."""
    hashes = {}
    with ThreadPoolExecutor(1) as other:  # training waits, so there is a core that can hash meanwhile
        for name, data in _serialized(content, states):
            found = other.submit(hashlib.sha256, data)
            (draft / name).write_bytes(data)
            hashes[name] = found.result().hexdigest()
    return hashes


def _serialized(content: Content, states: Tensor) -> Iterator[tuple[str, bytes | memoryview]]:
    """The files of a checkpoint, one after the other, so that one at a time is in memory."""
    yield "networks.safetensors", to_bytes(content.weights)
    yield "averages.safetensors", to_bytes(content.averages)
    yield "random.safetensors", to_bytes({"random": states})
    stream = io.BytesIO()  # on a full disk torch.save would raise an error of its own
    torch.save(content.optimizers, stream)
    yield "optimizers.pt", stream.getbuffer()


def finite(trainee: Trainee) -> bool:
    """Whether all weights and averages are, on all ranks together; all of them call it."""
    values = [value for network in trainee.networks.values() for value in network.state_dict().values()]
    values += [value for average in trainee.averages.values() for value in average.values.values()]
    return not _of_any(not torch.stack([local(value).isfinite().all() for value in values]).all(), trainee)


def _of_any(said: bool, trainee: Trainee) -> bool:
    """Whether any rank says so; all of them call it."""
    found = torch.tensor(said, device=trainee.device).int()
    if trainee.world > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def restore(folder: Path, trainee: Trainee, rank: int) -> Resumed | None:
    """Load the last whole checkpoint into `trainee` and the generators; None if there is none at all.

    All ranks call it, and all raise `FailedError` if one of them finds checkpoints of which none is whole.
    """
    found = checkpoints(folder)
    whole = next(((last, state) for last in reversed(found) if (state := _whole(last)) is not None), None)
    if _of_any(bool(found) and whole is None, trainee):
        raise FailedError(
            f"All checkpoints in {folder / 'checkpoints'} are damaged; delete that folder to start anew."
        )
    return None if whole is None else _load(*whole, trainee, rank)


def _whole(checkpoint: Path) -> dict[str, Any] | None:
    """The state of a checkpoint whose files are what they were; None if anything is damaged."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        whole = all(file_hash(checkpoint / name) == known for name, known in state["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return state if whole else None


def _load(last: Path, state: dict[str, Any], trainee: Trainee, rank: int) -> Resumed:
    weights = load_file(last / "networks.safetensors")
    for name, network in trainee.networks.items():
        prefix = f"{name}."
        load_weights(
            network,
            {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)},
        )
    averages = load_file(last / "averages.safetensors")
    for name, average in trainee.averages.items():
        average.load({key: averages[f"{name}.{key}"] for key in average.values})
        average.taken = sum(trainee.family.due(name, step) for step in range(state["step"]))
    saved = torch.load(last / "optimizers.pt", map_location=trainee.device, weights_only=True)
    for name, group in trainee.optimizers.items():
        for optimizer, content in zip(group, saved[name], strict=True):
            load_optimizer(optimizer, content)
    if state["world"] == trainee.world:
        states = load_file(last / "random.safetensors")["random"]
        fresh = mix(mix(trainee.options.seed, state["step"]), rank)
        _set_random(states[rank], trainee.device, fresh)
    else:
        # another number of workers: their streams begin anew, told apart by the step
        seed_rank(mix(trainee.options.seed, state["step"]), rank)
    return Resumed(state["step"], Position(state["rows"]))


def seed_rank(seed: int, rank: int) -> None:
    """Give this rank its own random numbers; weights were initialised by `seed` alone."""
    torch.manual_seed(mix(seed, rank))


def _gather_random(trainee: Trainee) -> Tensor:
    """The generators' states of all ranks, uint8 [world, bytes]: the CPU's and, on a GPU, its own."""
    own = torch.get_rng_state()
    if trainee.device.type == "cuda":
        own = torch.cat([own, torch.cuda.get_rng_state(trainee.device)])
    if trainee.world == 1:
        return own[None]
    own = own.to(trainee.device)
    states = [torch.empty_like(own) for _ in range(trainee.world)]
    dist.all_gather(states, own)
    return torch.stack(states).cpu()


def _set_random(state: Tensor, device: torch.device, fresh: int) -> None:
    """Put the generators where they were; a GPU's begins anew by the seed `fresh` if the run was on the CPU."""
    size = len(torch.get_rng_state())
    # a copy: torch 2.13 reads a view that does not begin its storage from a wrong address, and crashes
    torch.set_rng_state(state[:size].clone())
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:].clone(), device)
    elif device.type == "cuda":
        torch.cuda.manual_seed(fresh)
