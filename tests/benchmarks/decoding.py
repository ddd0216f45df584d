"""Generation with sampling options on: the engine's streams beside transformers' `generate`, called one by one.

Ours as a product is served that says nothing, and as one that says `compile: true`, and
`precision: bf16` besides; the partner in the precision in which it is faster.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from components.artifact import Model, load, save
from components.families.family import Requests, Shape
from components.families.gpt import GPT
from components.modalities.tokenizer import train_tokenizer
from components.serving import computing
from components.serving.engine import Engine
from components.serving.listening import News
from components.settings import Settings
from components.terms import Terms
from components.train.step import networks_for
from tests.benchmarks import partners
from tests.benchmarks.row import Row
from tests.benchmarks.throughput import SIZES, Size
from tests.components.families.rows import an_about

STREAMS, PROMPT, NEW, ROUNDS, THREADS = 16, 16, 100, 5, 1
CHARACTERS = "".join(map(chr, range(32, 95)))
HOW = {
    "as usual": Terms(),
    "compiled": Terms(compile=True),
    "compiled, bf16": Terms(compile=True, precision="bf16"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIONS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}


def run(project: Path) -> list[Row]:
    """Both shapes, on one thread as serving has by default; the partner has its own cache and the same options."""
    torch.set_num_threads(THREADS)
    return [row for size in SIZES for row in compare(size)]


def compare(size: Size) -> list[Row]:
    """16 streams and one stream of ours against one call after the other of theirs."""
    usual = a_model(size)
    vocabulary = usual.shape.vocabulary
    tried = {name: Partner(size, vocabulary, dtype) for name, dtype in DTYPES.items()}
    fastest = max(tried, key=lambda name: statistics.median(tried[name].rate() for _ in range(ROUNDS)))
    rows = [row for how, terms in HOW.items() for row in served(size, how, terms, tried[fastest], fastest)]
    what = f"cache of {STREAMS} streams, GPT {size.name}"
    return [*rows, Row(what, f"{cache(usual) / 2**20:.1f} MiB", "stated", {})]


def served(size: Size, how: str, terms: Terms, partner: Partner, kind: str) -> list[Row]:
    """The rows of one way to serve; each round is ours and theirs in turn, as machines change their pace."""
    with serving(size, terms, STREAMS) as engine:
        many = [(streams(engine, STREAMS), partner.rate()) for _ in range(ROUNDS)]
        shared = [(streams(engine, 1), partner.rate()) for _ in range(ROUNDS)]
    with serving(size, terms, 1) as engine:
        single = [(streams(engine, 1), partner.rate()) for _ in range(ROUNDS)]
    first = sorted(wait for found, _ in many for wait in found.first)
    name = f"tokens/s, GPT {size.name}, {how}"
    waits = f"p50 {1000 * statistics.median(first):.0f} ms, p99 {1000 * first[int(0.99 * len(first))]:.0f} ms"
    first_token = f"time to first token, GPT {size.name}, {how}, {STREAMS} streams beginning at once"
    return [
        beside(f"{name}, {STREAMS} streams at once", many, "≥ 10×", kind),
        beside(f"{name}, one stream, one row computed at once", single, "≥ 2×", kind),
        beside(f"{name}, one stream, {STREAMS} rows computed at once", shared, "stated", kind),
        Row(first_token, waits, "stated", {}),
    ]


def beside(what: str, rounds: list[tuple[Streamed, float]], wanted: str, kind: str) -> Row:
    """The median of the rounds' ratios, and of both rates."""
    ratio = statistics.median(found.rate / theirs for found, theirs in rounds)
    ours = statistics.median(found.rate for found, _ in rounds)
    theirs = statistics.median(theirs for _, theirs in rounds)
    said = f"{ratio:.1f}× ({ours:,.0f}; transformers' generate gives {theirs:,.0f} one by one, in {kind})"
    return Row(what, said, wanted, {"ratio": ratio})


def a_model(size: Size, packed: bool = True) -> Model:
    """A GPT of that shape that was not trained, as an artifact; its end token is made unlikely by nothing."""
    tokenizer = train_tokenizer("characters", [CHARACTERS], 0, chat=False)
    vocabulary, context = tokenizer.vocabulary, size.context
    shape = Shape(data=(context,), vocabulary=vocabulary, prompt=(context, vocabulary))
    family = GPT(
        layers=size.layers, heads=size.heads, kv_heads=size.heads, width=size.width, hidden=size.hidden
    )
    networks = networks_for(family, shape, 0)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        about = an_about(shape)
        save(Path(folder) / "model", family, networks, shape, about, Path(folder))
        model = load(Path(folder) / "model", packed=packed)
        assert model.modality.assets
        return model


@dataclass
class Streamed:
    """Tokens a second of all streams together, and each stream's seconds to its first token."""

    rate: float
    first: list[float]


@contextmanager
def serving(size: Size, terms: Terms, width: int) -> Iterator[Engine]:
    """A warm engine of `width` rows."""
    model = a_model(size, terms.usual)
    computing.prepare(model, terms, Settings())
    engine = Engine(model, width, threads=THREADS)
    engine.submit(request(model, 10**6)).result()
    yield engine
    engine.close()


def streams(engine: Engine, count: int) -> Streamed:
    """`count` requests that are submitted together and listened to, as a streaming route does."""
    began = time.perf_counter()
    first: dict[int, float] = {}
    lock = threading.Lock()
    done = []
    for number in range(count):

        def listen(news: News, own: int = number) -> bool:
            with lock:
                first.setdefault(own, time.perf_counter() - began)
            return False

        done.append(engine.submit(request(engine.model, number), listen))
    outputs = [future.result() for future in done]
    seconds = time.perf_counter() - began
    made = sum(int((output >= 0).sum()) for output in outputs)
    return Streamed(made / seconds, list(first.values()))


def request(model: Model, seed: int) -> Requests:
    """One row of `NEW` tokens after a prompt, with sampling options on; no token ends it before."""
    options = {name: torch.tensor([value]) for name, value in OPTIONS.items()}
    options |= {"max_tokens": torch.tensor([NEW]), "end": torch.tensor([-2])}
    return Requests(seed=torch.tensor([seed]), prompt=prompt(seed, model.shape.vocabulary), options=options)


def prompt(seed: int, vocabulary: int) -> Tensor:
    """A prompt of random tokens [1, P]."""
    return torch.randint(2, vocabulary, (1, PROMPT), generator=torch.Generator().manual_seed(seed))


class Partner:
    """transformers' Llama of that size, whose `generate` is called one by one."""

    def __init__(self, size: Size, vocabulary: int, dtype: torch.dtype) -> None:
        shape = (size.layers, size.heads, size.width, size.hidden, size.context, vocabulary)
        self.model, self.vocabulary = partners.llama(*shape).eval().to(dtype), vocabulary
        self.config = GenerationConfig(
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=True,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=0,
            **OPTIONS,
        )

    @torch.inference_mode()
    def rate(self, calls: int = 3) -> float:
        """Tokens a second over some calls, one after the other."""
        began = time.perf_counter()
        for seed in range(calls):
            self.model.generate(prompt(seed, self.vocabulary), self.config)
        return calls * NEW / (time.perf_counter() - began)


def cache(model: Model) -> int:
    """Bytes of the state of `STREAMS` rows, nearly all of them keys and values."""
    from components.families.family import tensors

    requests = Requests(seed=torch.arange(STREAMS))
    state = model.family.start(model.networks, requests)
    return sum(value.numel() * value.element_size() for value in tensors(state).values())
