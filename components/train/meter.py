"""What a training logs: sums of losses, of rows and tokens, and of time, on each worker, read together."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from components.families.family import Batch
from components.train.step import predicted

KEPT = 64
"""Steps whose logged values are kept at most before they are summed."""
LATE = 2**52
"""A step that no training reaches, and that a float64 holds."""


@dataclass(frozen=True)
class Place:
    """Which worker this is."""

    rank: int
    world: int
    device: torch.device


class Meter:
    """What is logged, averaged since the last report over steps and ranks, without waiting for the device.

    `spent` are the seconds of training that were spent before, by a process that has ended.
    """

    def __init__(self, place: Place, batch: int, tokens: bool = False, spent: float = 0.0) -> None:
        self.place, self.batch = place, batch
        self.tokens = torch.zeros((), dtype=torch.int64, device=place.device) if tokens else None
        self.recent: dict[str, list[tuple[int, Tensor]]] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad = torch.tensor(LATE, device=place.device)
        self.steps, self.since = 0, time.perf_counter()
        self.began = self.since - spent

    def add(self, logged: Mapping[str, Tensor], step: int, batch: Batch) -> None:
        """Take one step's values, which are only kept: summed one by one they cost a small model a hundredth."""
        if self.tokens is not None:
            self.tokens += predicted(batch)
        for name, value in logged.items():
            self.recent.setdefault(name, []).append((step + 1, value))
        self.steps += 1
        if self.steps % KEPT == 0:
            self._sum()

    def _sum(self) -> None:
        """Sum what was kept; the first step whose loss is not finite is remembered."""
        for name, kept in self.recent.items():
            values = torch.stack([value.float() for _, value in kept])
            self.sums[name] = self.sums[name] + values.sum() if name in self.sums else values.sum()
            self.counts[name] = self.counts.get(name, 0) + len(kept)
            if name.startswith("loss/"):
                steps = torch.tensor([step for step, _ in kept], device=values.device)
                self.bad = torch.minimum(self.bad, steps.masked_fill(values.isfinite(), LATE).min())
        self.recent = {}

    def read(self, stop: bool) -> tuple[dict[str, float], int, bool]:
        """(what is logged, the first bad step or −1, whether any rank was told to stop), the same on all ranks."""
        self._sum()
        names = sorted(self.sums)
        means = [self.sums[name] / self.counts[name] for name in names]
        asked = torch.tensor(float(stop), device=self.place.device)
        tokens = asked.new_zeros(()) if self.tokens is None else self.tokens
        values = torch.stack([*(mean.double() for mean in means), tokens.double(), asked.double()])
        most = torch.stack([-self.bad.double(), self._memory().double()])
        if self.place.world > 1:
            dist.all_reduce(values)
            values[:-2] /= self.place.world
            dist.all_reduce(most, dist.ReduceOp.MAX)
        *read, tokens_read, told = values.tolist()
        bad, memory = most.tolist()
        now = time.perf_counter()
        passed = max(now - self.since, 1e-9)
        metrics = {**dict(zip(names, read, strict=True)), "rows_per_second": self.steps * self.batch / passed}
        if self.tokens is not None:
            metrics["tokens_per_second"] = tokens_read / passed
            self.tokens.zero_()
        metrics |= {"memory_gib": memory, "seconds": now - self.began}
        self.sums, self.counts, self.steps, self.since = {}, {}, 0, now
        return metrics, -1 if bad == -LATE else int(-bad), told > 0

    def _memory(self) -> Tensor:
        """The peak of this worker's memory so far in GiB: the device's, on the CPU the process's."""
        if self.place.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.place.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak *= 1 if sys.platform == "darwin" else 1024
        return torch.tensor(peak / 2**30, device=self.place.device)
