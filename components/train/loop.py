"""The training loop that all families share: resume, step, report, picture, checkpoint, artifact."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from components import files
from components.artifact import WEIGHTS, fill, keep_assets, save
from components.data.dataset import Batches, Dataset, Position, is_same, open_dataset
from components.errors import FailedError, UserError
from components.families.family import Batch, Family, Kind, Requests, kind_of, move
from components.families.sampling import sample
from components.train import checkpoint
from components.train.adapters import adapt, merged
from components.train.collapse import Collapse
from components.train.meter import Meter, Place
from components.train.plan import Plan
from components.train.runs import RunState, report_of
from components.train.schedule import factor
from components.train.step import Trainee, advance, build, networks_for

PREVIEW, PIXELS = 64, 2**19
"""Samples in a picture of progress, and the most pixels that they have together."""


def train(plan: Plan, place: Place) -> RunState:
    """Train to the end, or until the run's stop file appears; goes on from the last checkpoint.

    Rank 0 writes progress, pictures, checkpoints and, at the end, the artifact into the run's folder.
    Raises `FailedError` with the step and the last good checkpoint if a loss is not finite.
    """
    family = kind_of(plan.family)(**plan.hyperparameters)
    dataset = open_dataset(plan.dataset, plan.task)
    options = plan.options
    batches = Batches(dataset, "train", options.batch, options.seed, place.rank, place.world)
    asked = assets = None
    if place.rank == 0:
        asked = preview(dataset)
        assets = keep_assets(dataset.modality, dataset.folder, plan.folder / "assets")
    _check_as_begun(plan, place, dataset)  # all files are open now: from here on they may be replaced
    trainee = _trainee(plan, place, family, dataset)
    checkpoint.seed_rank(plan.options.seed, place.rank)
    begun = checkpoint.restore(plan.folder, trainee, place.rank) or checkpoint.Resumed(0, Position())
    spent = forget_after(plan.folder / "progress.jsonl", begun.step) if place.rank == 0 else 0.0
    state = _steps(plan, place, trainee, Reading(dataset, batches, asked), begun, spent)
    if state == "done":
        networks = trainee.sampled
        if place.rank == 0:
            whole = merged(family.networks(dataset.shape), networks) if plan.options.adapters else networks
            save(plan.folder / "artifact", family, whole, dataset.shape, plan.about, assets)
    return state


def _check_as_begun(plan: Plan, place: Place, dataset: Dataset) -> None:
    """Raise `FailedError`, on all ranks together, if what any of them opened is not what the run began with."""
    same = torch.tensor(
        dataset.revision == plan.about.revision and is_same(dataset), device=place.device
    ).int()
    if place.world > 1:
        dist.all_reduce(same, dist.ReduceOp.MIN)
    if not same:
        if place.rank == 0:  # they may be of other data; right ones are kept again by who finds them
            shutil.rmtree(plan.folder / "assets", ignore_errors=True)
        raise FailedError(
            f"The dataset “{dataset.name}” was prepared anew while {plan.about.run} trained on what it was before; "
            "type the command again to train on what it is now."
        )


def run_to_outcome(plan: Plan, place: Place) -> None:
    """Train and leave `outcome.json`; an error with a name is an outcome, so that it is not tried again."""
    try:
        outcome = {"state": train(plan, place), "reason": ""}
    except UserError as error:
        if place.world > 1 and not isinstance(error, FailedError):
            raise  # the others wait for this rank; a FailedError is raised by all of them together
        outcome = {"state": "failed", "reason": str(error)}
    if place.rank == 0:
        files.write(plan.folder / "outcome.json", json.dumps(outcome))


def _trainee(plan: Plan, place: Place, family: Family, dataset: Dataset) -> Trainee:
    networks = networks_for(family, dataset.shape, plan.options.seed)
    if plan.start is not None:
        fill(networks, load_file(plan.start / WEIGHTS))
    if plan.options.adapters:
        adapt(networks, plan.options.adapters)
    return build(family, networks, plan.options, place.device, place.world)


@dataclass(frozen=True)
class Reading:
    """What is open of a dataset: its batches, and on rank 0 what progress is drawn from."""

    dataset: Dataset
    batches: Batches
    asked: Requests | None


def _steps(
    plan: Plan, place: Place, trainee: Trainee, reading: Reading, begun: checkpoint.Resumed, spent: float
) -> RunState:
    options, step, dataset = plan.options, begun.step, reading.dataset
    meter = Meter(place, options.batch, dataset.tensors.kind is Kind.TOKENS, spent)
    collapse = _collapse(plan, place, trainee.family)
    stream = reading.batches.from_position(begun.position)
    while step < options.steps:
        batch, position = next(stream)
        batch = to_device(batch, place.device)
        meter.add(advance(trainee, batch, step), step, batch)
        step += 1
        last, stop = step == options.steps, False
        kept = last or step % options.checkpoint_every == 0
        if kept or step % options.log_every == 0:
            stop = _report(plan, place, meter, collapse, step)
        kept = kept or stop
        if kept and not checkpoint.finite(trainee):
            raise FailedError(_not_finite(plan, step))
        if step % options.sample_every == 0 or last:  # before the checkpoint, behind which nobody looks again
            networks = trainee.sampled
            if reading.asked is not None:
                _picture(plan, trainee.family, networks, dataset, reading.asked, step)
        if kept:
            checkpoint.save(plan.folder, trainee, step, position, place.rank)
        if stop and not last:
            return "stopped"
    return "done"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` where the networks are; on the CPU it is there already."""
    return batch if device.type == "cpu" else move(batch, device)


def _collapse(plan: Plan, place: Place, family: Family) -> Collapse:
    """What watches for mode collapse; rank 0's, which speaks, knows what a run that goes on has reported."""
    found, path = Collapse(family, plan.about.run), plan.folder / "progress.jsonl"
    if place.rank == 0 and path.is_file():
        found.replay(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    return found


def _report(plan: Plan, place: Place, meter: Meter, collapse: Collapse, step: int) -> bool:
    """Write one line of progress; returns whether the run was asked to stop."""
    asked = place.rank == 0 and (plan.folder / "stop").exists()
    metrics, bad, stop = meter.read(asked)
    if bad >= 0:
        raise FailedError(_not_finite(plan, bad))
    if plan.options.schedule != "constant" or plan.options.warmup:
        metrics["lr_factor"] = factor(plan.options, step - 1)
    if place.rank == 0:
        said = collapse.see(step, metrics)
        line = {"step": step, **metrics, **({"warnings": said} if said else {})}
        with (plan.folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    return stop


def _not_finite(plan: Plan, step: int) -> str:
    good = checkpoint.checkpoints(plan.folder)
    last = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
    return (
        f"The loss or the weights of {plan.folder.name} were not finite at step {step}; {last}. "
        "Lower model.lr, clip harder (train.clip) or, with bf16, go back to train.precision=fp32."
    )


def _picture(
    plan: Plan,
    family: Family,
    networks: dict[str, nn.Module],
    dataset: Dataset,
    requests: Requests,
    step: int,
) -> None:
    """Draw the same requests each time, so that a person sees them improve."""
    training = {name: network.training for name, network in networks.items()}
    for network in networks.values():
        network.eval()
    output = sample(family, networks, requests, _at_once(dataset))
    for name, network in networks.items():
        network.train(training[name])
    target = plan.folder / "samples" / f"step-{step:09d}{dataset.tensors.suffix}"
    target.parent.mkdir(exist_ok=True)
    files.write(target, dataset.tensors.progress(output, requests))


def preview(dataset: Dataset) -> Requests:
    """What progress is drawn from: all classes in turn, and the captions and sources of the first held-out rows."""
    count, shape = _at_once(dataset), dataset.shape
    seeds = torch.arange(count)
    label = seeds % shape.classes if shape.classes else None
    captioned = shape.prompt is not None and not shape.vocabulary
    if shape.source is None and not captioned:
        return Requests(seed=seeds, label=label)
    held_out = dataset.whole("test", count)
    rows = seeds % len(held_out)
    prompt = held_out.prompt[rows] if captioned and held_out.prompt is not None else None
    source = held_out.source[rows] if shape.source is not None and held_out.source is not None else None
    return Requests(seed=seeds, label=label, prompt=prompt, source=source)


def _at_once(dataset: Dataset) -> int:
    """How many samples progress shows: fewer of large pictures."""
    if dataset.shape.vocabulary:
        return PREVIEW
    return max(4, min(PREVIEW, PIXELS // math.prod(dataset.shape.data[1:])))


def forget_after(path: Path, step: int) -> float:
    """Drop lines of progress beyond `step`, which the resumed run will write again; the seconds up to there."""
    if not path.is_file():
        return 0.0
    kept, spent = [], 0.0
    for line in path.read_bytes().splitlines():
        found = report_of(line)
        if found is not None and found["step"] <= step:
            kept.append(line + b"\n")
            spent = float(found.get("seconds", spent))
    files.write(path, b"".join(kept))
    return spent
