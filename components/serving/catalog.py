"""What a replica serves: versions that were resolved before, each loaded with an engine of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from pydantic import BaseModel
from torch import Tensor

from components import accelerator
from components.accelerator import Device
from components.artifact import Model, load
from components.errors import FailedError, UserError, WithdrawnError
from components.families.family import Requests
from components.filtering import ContentFilter, open_filter
from components.labels.journal import Journal
from components.labels.marker import Marker, open_marker
from components.modalities.modality import Order
from components.serving import computing
from components.serving.engine import Engine, FullError, When, now
from components.serving.listening import Listener, Look
from components.serving.records import ASKING
from components.settings import Settings
from components.terms import USUAL, Terms

if TYPE_CHECKING:
    from components.serving.trial import Trial

WARMING = 300.0
"""Seconds that a version may take to generate for the first time, with all that is compiled then."""
AS_IT_IS = nullcontext()
SEEDS = 2**52
"""Seeds drawn for those who name none; JavaScript reads such numbers exactly."""


@dataclass(frozen=True)
class Served:
    """An immutable version of a product and the folder of its artifact; `created` in seconds since the epoch.

    With `follows` it gives way to the product's next champion as soon as there is one, on the same terms and the same
    `device`.
    """

    product: str
    version: int
    folder: Path
    created: int
    follows: bool = False
    terms: Terms = USUAL
    device: Device = "cpu"


Watch: TypeAlias = Callable[[Requests, float, Future[Tensor]], None]
"""Hears of rows that were generated or failed, and the seconds that it took. Runs on the engine's thread."""


@dataclass(frozen=True)
class Loaded:
    """A served version in memory, warm; `filter` holds back what is not let out to applications.

    `watch` hears what becomes of all that is submitted by this object. `marker` marks what is let out, if that is
    wanted, and `journal` keeps the hashes of it.
    """

    served: Served
    model: Model
    engine: Engine
    filter: ContentFilter | None = None
    watch: Watch | None = None
    marker: Marker | None = None
    journal: Journal | None = None

    @property
    def name(self) -> str:
        """Such as digits/3."""
        return f"{self.served.product}/{self.served.version}"

    def order(self, body: Any) -> Order:
        """The rows of a request; answer i has the seed of the first + i, so it can be asked for alone.

        Raises `UserError` for what the model cannot do.
        """
        model = self.model
        seed = secrets.randbelow(SEEDS) if body.seed is None else int(body.seed)
        seeds = [(seed + place) % 2**63 for place in range(model.modality.answers(body))]
        with threads(self.engine.threads):
            return model.modality.order(body, model.maker, seeds)

    def submit(
        self,
        body: BaseModel,
        requests: Requests,
        seed: int,
        listen: Listener | None = None,
        look: Look | None = None,
        when: When = now,
    ) -> Future[Tensor]:
        """Let the engine begin with the rows of `body`, as `Engine.submit` does; a server keeps a record of it."""
        began, watch = time.perf_counter(), self.watch
        work = self.engine.submit(requests, listen, look, when)
        if watch is not None:
            work.add_done_callback(lambda done: watch(requests, time.perf_counter() - began, done))
        if (asking := ASKING.get()) is not None:
            asking.follow(self, body, seed, len(requests), work)
        return work

    def generate(self, body: BaseModel, patience: float | None = None) -> tuple[list[bytes], Order]:
        """The files of a request, computed here and now. Raises `FailedError` after `patience` seconds."""
        order = self.order(body)
        output = finished(self.submit(body, order.requests, order.seeds[0]), patience)
        return [order.file(place, output) for place in range(len(order))], order


def finished(work: Future[Tensor], patience: float | None) -> Tensor:
    """What comes of `work`; raises `FailedError` if that takes longer than `patience` seconds."""
    if not wait([work], patience).done:
        raise FailedError(f"it generated nothing in {patience:g} s")
    return work.result()


def close_unwanted(work: Future[Loaded]) -> None:
    """Close what `work` loads as soon as it is there, if it comes to that; nobody waits."""

    def close(done: Future[Loaded]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().engine.close()

    work.cancel()
    work.add_done_callback(close)


@dataclass(frozen=True)
class Withheld:
    """In the place of a file that the product's filter does not let out, for this reason."""

    BEFORE: ClassVar[str] = "The product's content filter lets nothing of this answer out: "
    AFTER: ClassVar[str] = "; ask with another seed."
    reason: str

    def __str__(self) -> str:
        return f"{self.BEFORE}{self.reason}{self.AFTER}"

    @classmethod
    def of(cls, sentence: str) -> Withheld:
        """What `str` made `sentence` of."""
        return cls(sentence.removeprefix(cls.BEFORE).removesuffix(cls.AFTER))


def seen(loaded: Loaded, file: bytes, media_type: str | None = None) -> bytes | Withheld:
    """`file` of `media_type`, by default the modality's, unless the product's filter does not let it out."""
    held_back = loaded.filter
    reason = (
        None if held_back is None else held_back.refuses(file, media_type or loaded.model.modality.media_type)
    )
    if held_back is None or reason is None:
        return file
    held_back.count()
    return Withheld(reason)


def threads(count: int) -> AbstractContextManager[None]:
    """Let torch compute with `count` threads in this thread, on which the bits of a picture's latent depend."""
    before = torch.get_num_threads()
    return AS_IT_IS if before == count else _changed(before, count)


@contextmanager
def _changed(before: int, count: int) -> Iterator[None]:
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Gone:
    """In the place of a version that was withdrawn, until another one answers: `why` is what is told to who asks."""

    served: Served
    digest: str
    why: str


class Catalog:
    """The loaded versions by product name; closing it ends their engines.

    `trials` are the versions that are tried beside them, `gone` the products whose version was withdrawn. All are
    replaced and never changed, so who has read one goes on with what was there.
    """

    def __init__(self, loaded: Mapping[str, Loaded], gone: Sequence[Gone] = ()) -> None:
        self.loaded: Mapping[str, Loaded] = MappingProxyType(dict(loaded))
        self.trials: Mapping[str, Trial] = MappingProxyType({})
        self.gone: Mapping[str, Gone] = MappingProxyType({one.served.product: one for one in gone})
        self._barred: dict[str, Mapping[int, str]] = {}
        self._all = list(loaded.values())
        self._order = [*loaded, *self.gone]
        self._lock = RLock()  # one thread follows the champions, another one what is withdrawn

    @property
    def served(self) -> dict[str, Served]:
        """What every product is to be served as, also of one whose version is gone."""
        there = {product: loaded.served for product, loaded in self.loaded.items()}
        return {product: one.served for product, one in self.gone.items()} | there

    def put(self, product: str, loaded: Loaded) -> None:
        """Answer with `loaded` from now on; the version before it stays open for those who use it still.

        Raises `WithdrawnError`, and closes it, if it was withdrawn meanwhile.
        """
        with self._keeping(loaded):
            there = {**self.loaded, product: loaded}
            self._order += [] if product in self._order else [product]
            self.loaded = MappingProxyType({own: there[own] for own in self._order if own in there})
            self.gone = MappingProxyType({own: one for own, one in self.gone.items() if own != product})

    @contextmanager
    def _keeping(self, loaded: Loaded) -> Iterator[None]:
        """Close this version too when the catalog is closed; the block runs while nothing is barred."""
        try:
            with self._lock:
                self.check(loaded.served.product, loaded.served.version)
                if not any(one is loaded for one in self._all):
                    self._all.append(loaded)
                yield
        except WithdrawnError as error:
            loaded.engine.close(error)
            raise

    def begin(self, product: str, trial: Trial) -> None:
        """Try a version beside the product's champion from now on. Raises as `put` does."""
        with self._keeping(trial.loaded):
            self.trials = MappingProxyType({**self.trials, product: trial})

    def end(self, product: str) -> None:
        """Try nothing beside the product's champion any more; the version stays open for those who use it still."""
        with self._lock:
            self.trials = MappingProxyType({own: one for own, one in self.trials.items() if own != product})

    def forget(self, loaded: Loaded) -> None:
        """Let go of a version that was closed."""
        with self._lock:
            self._all = [one for one in self._all if one is not loaded]

    def bar(self, product: str, reasons: Mapping[int, str], otherwise: str) -> list[Loaded]:
        """Answer with none of these versions any more: of each number, what is told to who asks.

        Returns those that were open, for the caller to close; one that answered leaves its product `gone`. Of a
        product that is gone already for what is withdrawn no longer, `otherwise` is told.
        """
        with self._lock:
            self._barred[product] = dict(reasons)
            found = self.loaded.get(product)
            if found is not None and found.served.version in reasons:
                self.gone = MappingProxyType(
                    {**self.gone, product: Gone(found.served, found.model.digest, "")}
                )
                self.loaded = MappingProxyType(
                    {own: one for own, one in self.loaded.items() if own != product}
                )
            if product in self.gone:
                gone = self.gone[product]
                why = reasons.get(gone.served.version, otherwise)
                self.gone = MappingProxyType({**self.gone, product: replace(gone, why=why)})
            return [
                one for one in self._all if one.served.product == product and one.served.version in reasons
            ]

    def check(self, product: str, version: int) -> None:
        """Raise `WithdrawnError` if this version may answer nobody any more."""
        why = self._barred.get(product, {}).get(version)
        if why is not None:
            raise WithdrawnError(why)

    @property
    def healthy(self) -> bool:
        """Whether there is something to serve and every engine works; who serves nothing but what is gone is well."""
        return bool(self.loaded or self.gone) and all(one.engine.healthy for one in self.loaded.values())

    def close(self) -> None:
        """End the engines, and write what the journals still hold."""
        for loaded in self._all:
            loaded.engine.close()
        for loaded in self._all:
            if loaded.journal is not None:
                loaded.journal.flush()


def open_catalog(served: Sequence[Served], settings: Settings, gone: Sequence[Gone] = ()) -> Catalog:
    """Load and warm the versions, beside what is `gone`; the artifacts' hashes are checked. Raises `UserError`."""
    loaded: dict[str, Loaded] = {}
    try:
        for one in served:
            loaded[one.product] = open_version(one, settings)
    except BaseException:
        Catalog(loaded).close()
        raise
    return Catalog(loaded, gone)


def open_version(served: Served, settings: Settings) -> Loaded:
    """Load one version onto its device, with `GENLOOM_THREADS` threads (one unless set), and generate once to warm it.

    What is to be compiled is compiled then. Raises `UserError`, and `FailedError` if nothing comes of it.
    """
    held_back = open_filter(served.terms)
    check_device(served)
    model = _loaded(served, settings)
    marker = open_marker(served.product, served.version, model.digest, served.terms, settings)
    journal = None if served.terms.records == "none" else Journal(settings, served.product)
    computing.prepare(model, served.terms, settings)
    rows = computing.rows(model, served.terms)
    engine = Engine(model, rows, threads=settings.threads or 1)
    loaded = Loaded(served, model, engine, held_back, marker=marker, journal=journal)
    try:
        loaded.generate(model.modality.warm(model.shape), WARMING)
    except BaseException:
        loaded.engine.close()
        raise
    return loaded


def _loaded(served: Served, settings: Settings) -> Model:
    """The model on its device; raises `UserError`, and `FullError` where a GPU has no memory for it."""
    try:
        return load(_folder(served, settings), served.device, served.terms.usual)
    except torch.OutOfMemoryError as error:
        raise FullError(
            f"The GPU has no memory left for {served.product}/{served.version}; end what else is on it, or give "
            "each replica more of it by gpus."
        ) from error


def check_device(served: Served) -> None:
    """See that a version's device is there, and have it compute the same each time; raises `UserError`."""
    if not accelerator.there(served.device):
        raise UserError(
            f"{served.product}/{served.version} is to be computed on a GPU, and torch sees none in this process; "
            "mend the driver, install a torch that is built for it, or set gpus to 0."
        )
    accelerator.repeatable(served.device)


def _folder(served: Served, settings: Settings) -> Path:
    """The artifact's folder; another node of a cluster than the one that fetched it fetches its own copy."""
    if served.folder.is_dir():
        return served.folder
    from components.promotion.registry import Registry

    registry = Registry(settings)
    return registry.fetch(registry.version(served.product, served.version))
