"""What single rows of the table of pictures state beside the report: times, whole images, whole test sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from components.artifact import load
from components.evaluation.report import Report
from components.families.family import Requests
from components.project import Project
from components.train.launch import Trained

Extra = Callable[[Project, Trained, Report], list[str]]
SAMPLES, ROUNDS = 64, 3


def quick(where: Project, trained: Trained, report: Report) -> list[str]:
    """Seconds for 64 samples on all cores, the fastest of three, as the artifact is served."""
    model = load(trained.artifact)
    torch.set_num_threads(torch.get_num_threads())
    taken = []
    for turn in range(ROUNDS):
        began = time.perf_counter()
        model.sample(Requests(seed=torch.arange(SAMPLES) + turn))
        taken.append(time.perf_counter() - began)
    return [f"{SAMPLES} samples in {min(taken):.2f} s"]


EXTRAS: Mapping[str, Extra] = {"mnist-diffusion": quick}
"""By run."""
