"""What Ray Train runs, inside a worker or in the process that asked: find the place, train, say how it ended."""

from __future__ import annotations

from typing import Any

import ray.train
import ray.train.torch
import torch

from components.train.loop import run_to_outcome
from components.train.meter import Place


def work(config: dict[str, Any]) -> None:
    """One worker's share of `config["plan"]`, on `config["threads"]` CPU threads."""
    context = ray.train.get_context()
    torch.set_num_threads(config["threads"])
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    if place.device.type == "cuda":  # a process may have trained before
        torch.cuda.reset_peak_memory_stats(place.device)
    run_to_outcome(config["plan"], place)
