"""Molecules: nats a molecule over the test split, and samples beside n-grams of tokens and held-out molecules."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from components.data.dataset import Dataset, Split
from components.errors import UserError
from components.evaluation import ngram
from components.evaluation.intervals import average
from components.evaluation.measurement import Extent, Measured, Measurement, Say, Subject, enough, finite
from components.evaluation.molecules import Found, Known, accuracy, facts, measure
from components.evaluation.report import Metric
from components.families.family import END, Requests, select
from components.families.sampling import mix
from components.modalities import chemistry
from components.modalities.molecule import Molecule
from components.modalities.smiles import band_token
from components.modalities.structures import MOST as SHOWN
from components.modalities.structures import gallery

VERSION = 1
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models, whatever width they are served at."""
SAMPLES = 1000
ASKED = 300
"""Molecules that are asked for by band, if the model can be."""
NEIGHBOURS, QUERIES, SEARCHED = 5, 6, 50_000
"""In the picture of memorization: the training molecules beside each sample, samples, and how many are searched."""
FEWEST = 40
"""Held-out molecules that an evaluation needs."""


class MoleculeMeasurement(Measurement):
    """Nats over the test split, validity, novelty, diversity, and distances from held-out molecules.

    Half of the held-out molecules are compared with; the other half stands in the column of real ones.
    """

    name: ClassVar[str] = "molecule"

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        chemistry.required()
        _check(dataset)
        enough(extent.samples)
        modality = dataset.tensors
        assert isinstance(modality, Molecule)
        self.dataset, self.modality = dataset, modality
        self.samples = extent.samples or SAMPLES
        self.test = dataset.whole("test")
        smiles = _column(dataset, "test", "smiles")
        order = torch.randperm(len(smiles), generator=torch.Generator().manual_seed(mix(SEED, 1))).tolist()
        half = min(len(smiles) // 2, self.samples)
        self.compared = Found([smiles[place] for place in order[:half]])
        self.real = Found([smiles[place] for place in order[half : 2 * half]])
        self.protocol = self._protocol()

    def _protocol(self) -> dict[str, object]:
        assert self.test.given is not None
        return {
            "version": VERSION,
            "samples": self.samples,
            "split": "test",
            "held_out": len(self.compared.smiles),
            "tokens": int((self.test.length - self.test.given).sum()),
            "reference": len(self.real.smiles),
            "decoding": "free, at temperature 1",
            "longest": self.dataset.shape.data[0] - 1,
            "fingerprint": f"Morgan, radius {chemistry.RADIUS}, {chemistry.BITS} bits",
            "bands": self.modality.bands.by,
            "baseline": f"{ngram.ORDER}-gram",
            "rdkit": chemistry.version(),
            "seed": SEED,
            "width": WIDTH,
        }

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the trivial model and of held-out molecules."""
        drawn = Found(self.modality.texts(self._sample(subject, self.samples, None, say)))
        say("fitting the trivial model")
        train = self.dataset.whole("train")
        trivial = ngram.fit(train.data.numpy(), self.dataset.shape.vocabulary)
        say("measuring the likelihood of the test split")
        likelihoods = {"model": self._likelihood(subject), "baseline": self._trivial_likelihood(trivial)}
        say("comparing samples with held-out molecules")
        columns = {"model": drawn, "baseline": self._trivial(trivial), "real": self.real}
        known = self._known()
        found = {
            name: {**likelihoods.get(name, {}), **measure(of, self.compared, known, mix(SEED, 4))}
            for name, of in columns.items()
        }
        found["model"] |= self._asked(subject, say)
        say("looking for the nearest training molecules")
        files = {
            "samples.png": gallery(drawn.smiles),
            "samples.smi": "".join(f"{one}\n" for one in drawn.smiles).encode(),
            "nearest.png": self._nearest(drawn),
        }
        return Measured(found["model"], found["baseline"], found["real"], files, facts(columns))

    def _sample(self, subject: Subject, count: int, prompt: Tensor | None, say: Say) -> Tensor:
        """Molecules [count, T], each behind its row of `prompt` [count, P], if there is one."""
        parts = []
        for first in range(0, count, WIDTH):
            say(f"drawing molecules … {100 * first // count}%")
            part = slice(first, min(first + WIDTH, count))
            seed = torch.arange(part.start, part.stop) + SEED
            given = None if prompt is None else prompt[part]
            parts.append(subject.sample(Requests(seed=seed, prompt=given), WIDTH))
        return torch.cat(parts)

    def _asked(self, subject: Subject, say: Say) -> dict[str, Metric]:
        """How often a molecule that is asked for by band lies in it, if the model knows bands."""
        bands = self.modality.bands
        if not bands.names:
            return {}
        wanted = [bands.names[place % len(bands.names)] for place in range(ASKED)]
        tokens = [self.modality.tokenizer.id_of(band_token(band)) for band in wanted]
        prompt = torch.tensor([[END, token] for token in tokens])
        drawn = self.modality.texts(self._sample(subject, ASKED, prompt, say))
        found = accuracy(drawn, wanted, bands.of, bands.by)
        return {"band_accuracy": Metric(*found, Molecule.metrics["band_accuracy"])}

    def _likelihood(self, subject: Subject) -> dict[str, Metric]:
        """Nats a molecule, by its canonical SMILES, if the model has nats."""
        parts = []
        for first in range(0, len(self.test), WIDTH):
            nats = subject.nats(select(self.test, slice(first, first + WIDTH)))
            if nats is None:
                return {}
            parts.append(nats)
        return _nats(finite(torch.cat(parts), "likelihoods of test rows"))

    def _trivial_likelihood(self, trivial: ngram.Ngrams) -> dict[str, Metric]:
        assert self.test.given is not None
        nats, _ = trivial.nats(self.test.data.numpy(), self.test.given.numpy())
        return _nats(torch.from_numpy(nats))

    def _trivial(self, trivial: ngram.Ngrams) -> Found:
        """What the trivial model draws."""
        output = trivial.sample(self.samples, self.dataset.shape.data[0] - 1, mix(SEED, 3))
        return Found(self.modality.texts(torch.from_numpy(output)))

    def _known(self) -> Known:
        """The training molecules and their scaffolds; computed again where another RDKit wrote them."""
        smiles, scaffolds = (_column(self.dataset, "train", name) for name in ("smiles", "scaffold"))
        stereo = self.dataset.details["stereo"] == "keep"
        if self.dataset.details["rdkit"] != chemistry.version():
            again = Found(smiles)
            smiles, scaffolds = again.canonical(stereo), again.scaffolds
        return Known(frozenset(smiles), frozenset(scaffolds), stereo)

    def _nearest(self, drawn: Found) -> bytes:
        """A line for each of the samples nearest to a training molecule: it, and those most like it."""
        smiles = list(dict.fromkeys(_column(self.dataset, "train", "smiles")))[:SEARCHED]
        prints = [chemistry.fingerprint(chemistry.read(one)) for one in smiles]
        first = list(zip(drawn.places, drawn.canonical(True), drawn.fingerprints, strict=True))[:SHOWN]
        first = list({one[1]: one for one in reversed(first)}.values())[::-1]
        likeness = [np.array(chemistry.similarities(own, prints)) for *_, own in first]
        order = sorted(range(len(first)), key=lambda place: -likeness[place].max())[:QUERIES]
        shown: list[str] = []
        notes: list[str] = []
        for place in order:
            nearest = np.argsort(-likeness[place], kind="stable")[:NEIGHBOURS]
            shown += [first[place][1], *(smiles[other] for other in nearest)]
            notes += [
                f"sample {first[place][0]}",
                *(f"training, {likeness[place][other]:.2f}" for other in nearest),
            ]
        head = "Samples, and the training molecules that are most like each (Tanimoto similarity)"
        return gallery(shown, notes, head, columns=1 + min(NEIGHBOURS, len(smiles)))


def _column(dataset: Dataset, split: Split, name: str) -> list[str]:
    """A column of texts, in the order on disk."""
    found: list[str] = dataset.table(split).to_table(columns=[name]).column(name).to_pylist()
    return found


def _nats(values: Tensor) -> dict[str, Metric]:
    return {"nats_per_molecule": Metric(*average(values), Molecule.metrics["nats_per_molecule"])}


def _check(dataset: Dataset) -> None:
    """Raise `UserError` where an evaluation makes no sense."""
    if dataset.rows("test") < FEWEST:
        raise UserError(
            f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} molecules and evaluation needs "
            f"{FEWEST}; add data or raise split.test in params.yaml."
        )
