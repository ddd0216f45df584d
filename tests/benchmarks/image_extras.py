"""What single rows of the table of pictures state beside the report: times, whole images, whole test sets."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from components.artifact import load
from components.data.fetch import fetch
from components.evaluation.quality import psnr
from components.evaluation.report import Report
from components.families.family import Requests
from components.families.translation import Translation
from components.image_rows import ArchiveRow
from components.modalities.image import Image, floats
from components.project import Project
from components.train.attempts import Trained

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


def whole(where: Project, trained: Trained, report: Report) -> list[str]:
    """The mean PSNR over the whole pictures of Set12 in dB, before and after; the report has their middles only."""
    row, model = where.dataset("bsd-denoise"), load(trained.artifact)
    assert isinstance(row, ArchiveRow)
    assert isinstance(model.modality, Image)
    assert isinstance(model.family, Translation)
    corruption, translator = model.modality.conditions.corruption, model.family.translator(model.networks)
    assert corruption is not None
    found = []
    for number, picture in enumerate(pictures(fetch(row.files["test"], where.settings, lambda *_: None))):
        noisy = corruption.of(picture, torch.tensor([number]))
        with torch.inference_mode():
            restored = translator(noisy).clamp(-1.0, 1.0)
        found.append(torch.cat([psnr(noisy, picture), psnr(restored, picture)]))
    before, after = torch.stack(found).mean(0).tolist()
    return [f"PSNR of {len(found)} whole pictures {before:.2f} → {after:.2f} dB"]


def pictures(path: Path) -> Iterator[Tensor]:
    """The grey pictures of an archive, [1, 1, H, W] in [−1, 1], in the order of their names."""
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            stream = archive.extractfile(member)
            if stream is not None and member.name.endswith(".png"):
                levels = np.array(Pillow.open(stream).convert("L"))
                yield floats(torch.from_numpy(levels)[None, None])


EXTRAS: Mapping[str, Extra] = {"mnist-diffusion": quick, "bsd-denoise-pix2pix": whole}
"""By run."""
