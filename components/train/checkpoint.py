"""Resume state on disk: weights, optimizers, averages, random state, data position, world size."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.artifact import fill, flatten
from components.data.dataset import Position
from components.families.sampling import mix
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
    if rank == 0:
        target = folder / "checkpoints" / f"step-{step:09d}"
        draft = target.with_name(f".{target.name}-{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write(draft, trainee, states)
        state = {"step": step, "rows": position.rows, "world": trainee.world, "torch": torch.__version__}
        (draft / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        for old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    if trainee.world > 1:
        dist.barrier()


def _write(draft: Path, trainee: Trainee, states: Tensor) -> None:
    save_file(flatten(trainee.networks), draft / "networks.safetensors")
    save_file(flatten(trainee.averages), draft / "averages.safetensors")
    optimizers = {
        name: [optimizer.state_dict() for optimizer in group] for name, group in trainee.optimizers.items()
    }
    torch.save(optimizers, draft / "optimizers.pt")
    save_file({"random": states}, draft / "random.safetensors")


def restore(folder: Path, trainee: Trainee, rank: int) -> Resumed | None:
    """Load the last complete checkpoint into `trainee` and the generators; None if there is none."""
    found = checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    fill(trainee.networks, load_file(last / "networks.safetensors"))
    fill(trainee.averages, load_file(last / "averages.safetensors"))
    saved = torch.load(last / "optimizers.pt", map_location=trainee.device, weights_only=True)
    for name, group in trainee.optimizers.items():
        for optimizer, content in zip(group, saved[name], strict=True):
            optimizer.load_state_dict(content)
    if state["world"] == trainee.world:
        _set_random(load_file(last / "random.safetensors")["random"][rank], trainee.device)
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


def _set_random(state: Tensor, device: torch.device) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].contiguous())
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:].contiguous(), device)
