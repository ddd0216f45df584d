"""What the tests of families share: shapes, rows and requests of each kind of data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from components import artifact
from components.families.family import (
    END,
    NOTHING,
    Batch,
    Family,
    Kind,
    Requests,
    Shape,
    Task,
    kind_of,
    names,
)
from components.modalities.tokenizer import train_tokenizer
from components.train.step import networks_for

IMAGES = {
    Task.FREE: [Shape(data=(1, 8, 8)), Shape(data=(3, 12, 8))],
    Task.LABEL: [Shape(data=(1, 8, 8), classes=3), Shape(data=(3, 12, 8), classes=4)],
    Task.PROMPT: [Shape(data=(3, 8, 8), prompt=(6, 20))],
    Task.SOURCE: [Shape(data=(1, 8, 8), source=(1, 8, 8)), Shape(data=(3, 12, 8), source=(4, 12, 8))],
}
"""The shapes of pictures by what a request carries; the last source has a mask."""
WAVES = {Task.FREE: Shape(data=(64,)), Task.LABEL: Shape(data=(64,), classes=3)}
TEXTS = [
    Shape(data=(24,), vocabulary=11, prompt=(24, 11)),
    Shape(data=(80,), vocabulary=70, prompt=(80, 70)),
]
PAIRS = [
    Shape(data=(24,), vocabulary=11, prompt=(24, 11), source=(9,)),
    Shape(data=(80,), vocabulary=70, prompt=(80, 70), source=(30,)),
]
"""The shapes of tokens for families that turn a source into something."""


def shapes_of(name: str) -> list[Shape]:
    """All shapes that a family is tried with."""
    family = kind_of(name)
    found: list[Shape] = []
    if Kind.IMAGE in family.kinds:
        found += [shape for task, shapes in IMAGES.items() if task in family.tasks for shape in shapes]
    if Kind.WAVEFORM in family.kinds:
        found += [shape for task, shape in WAVES.items() if task in family.tasks]
    return found + texts_of(name)


def texts_of(name: str) -> list[Shape]:
    """The shapes of tokens that a family is tried with."""
    family = kind_of(name)
    if Kind.TOKENS not in family.kinds:
        return []
    return PAIRS if Task.SOURCE in family.tasks else TEXTS


def token_families() -> list[str]:
    return [name for name in names() if Kind.TOKENS in kind_of(name).kinds]


def batch_of(shape: Shape, rows: int, seed: int = 0) -> Batch:
    """Noise, or documents of different lengths, two in the third row, of whose last one a part is given."""
    generator = torch.Generator().manual_seed(seed)
    if not shape.vocabulary:
        data = torch.rand(rows, *shape.data, generator=generator) * 2 - 1
        asked = conditions(shape, torch.arange(rows))
        return Batch(data=data, length=torch.full((rows,), shape.data[0]), **asked)
    width = shape.data[0]
    data = torch.randint(1, shape.vocabulary, (rows, width), generator=generator)
    length = torch.randint(width // 2, width + 1, (rows,), generator=generator)
    data[:, 0] = END
    data[2, width // 4] = END
    data[torch.arange(rows), length - 1] = END
    data[torch.arange(width) >= length[:, None]] = NOTHING
    given = torch.ones_like(length)
    given[-1] = length[-1] // 2
    return Batch(data=data, length=length, given=given, source=source_of(shape, rows, generator))


def conditions(shape: Shape, rows: Tensor) -> dict[str, Tensor]:
    """What a request for a picture carries by its shape, decided by the numbers `rows` [N]."""
    found: dict[str, Tensor] = {}
    if shape.classes:
        found["label"] = rows % shape.classes
    if shape.prompt:
        length, vocabulary = shape.prompt
        place = torch.arange(length)
        tokens = 1 + (rows[:, None] * (1 + place)) % (vocabulary - 1)
        found["prompt"] = torch.where(place < 1 + (rows % length)[:, None], tokens, NOTHING)
    if shape.source:
        found["source"] = torch.stack([_pattern(shape.source, int(row)) for row in rows])
    return found


def _pattern(shape: tuple[int, ...], row: int) -> Tensor:
    """A picture of two levels that the number decides."""
    axes = torch.meshgrid(*(torch.linspace(0, 3.14, size) for size in shape), indexing="ij")
    return torch.sign(torch.sin(sum(axes[1:], start=axes[0]) * (1 + row % 4) + row // 4)) * 0.8


def source_of(shape: Shape, rows: int, generator: torch.Generator) -> Tensor | None:
    """Sources of different lengths, the first of which is empty."""
    if shape.source is None:
        return None
    source = torch.randint(1, shape.vocabulary, (rows, *shape.source), generator=generator)
    length = torch.randint(1, shape.source[0] + 1, (rows,), generator=generator)
    length[0] = 0
    source[torch.arange(shape.source[0]) >= length[:, None]] = NOTHING
    return source


def requests_of(seeds: list[int], shape: Shape) -> Requests:
    """A request a seed; of tokens, prompts and sources that the seed decides, of different lengths."""
    seed = torch.tensor(seeds)
    if not shape.vocabulary:
        return Requests(seed=seed, **conditions(shape, seed))
    prompt = torch.full((len(seeds), shape.data[0]), NOTHING)
    sources = []
    for row, own in enumerate(seeds):
        generator = torch.Generator().manual_seed(own)
        length = own * 11 % (shape.data[0] - 3)
        prompt[row, 0] = END
        prompt[row, 1 : length + 1] = torch.randint(1, shape.vocabulary, (length,), generator=generator)
        sources.append(source_of(shape, 2, generator))
    found = [pair[1] for pair in sources if pair is not None]
    return Requests(seed=seed, prompt=prompt, source=torch.stack(found) if found else None)


def made(name: str, shape: Shape) -> tuple[Family, dict[str, nn.Module]]:
    family = kind_of(name)(**kind_of(name).small)
    return family, networks_for(family, shape, seed=0)


def evaluated(networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: network.eval() for name, network in networks.items()}


def stirred(networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Networks in which nothing is zero any more, so that every part takes part."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in networks.values():
            for parameter in network.parameters():
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return evaluated(networks)


def assets_of(shape: Shape, folder: Path) -> Path | None:
    """The folder of a tokenizer, where the data are text."""
    if not shape.vocabulary:
        return None
    folder.mkdir()
    letters = [chr(ord("0") + place) for place in range(shape.vocabulary - 2)]
    tokenizer = train_tokenizer("characters", letters, shape.vocabulary, chat=False)
    assert tokenizer.vocabulary == shape.vocabulary
    tokenizer.save(folder)
    return folder


def an_about(shape: Shape) -> artifact.About:
    return artifact.About(
        product="p",
        run="r",
        dataset="d",
        revision="0",
        licence="CC0",
        source="made",
        classes=[],
        modality="text" if shape.vocabulary else "image",
        key="k",
        parameters={},
        commit="",
        dirty=False,
        steps=1,
    )
