"""What families of tokens keep beside the contract: the cache changes nothing, documents do not see each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from components.families.autoregressive import CHUNK, TextState, language
from components.families.family import END, NOTHING, Batch, Family, Requests, Shape, select, tensors
from components.families.gpt import GPT
from components.families.layers import views
from components.families.layers.muon import Muon, optimizers_of, orthogonal
from components.families.layers.norm import normed
from components.families.sampling import Slots, sample
from components.families.seq2seq import Seq2Seq
from tests.components.families.rows import batch_of, made, requests_of, stirred, texts_of, token_families

LONG = 160
"""A context into which prompts of three chunks go, and whose cache has three blocks."""


def long_shape(name: str) -> Shape:
    source = (70,) if texts_of(name)[0].source else None
    return Shape(data=(LONG,), vocabulary=30, prompt=(LONG, 30), source=source)


def ready(name: str, shape: Shape) -> tuple[Family, dict[str, nn.Module]]:
    family, networks = made(name, shape)
    return family, stirred(networks)


def prompts(shape: Shape, lengths: list[int], boundaries: dict[int, int]) -> Requests:
    """Prompts of these lengths, and a second document inside those of the rows in `boundaries`."""
    generator = torch.Generator().manual_seed(9)
    prompt = torch.randint(1, shape.vocabulary, (len(lengths), shape.data[0]), generator=generator)
    prompt[:, 0] = END
    for row, place in boundaries.items():
        prompt[row, place] = END
    prompt[torch.arange(shape.data[0]) >= torch.tensor(lengths)[:, None]] = NOTHING
    source = None
    if shape.source:
        source = torch.randint(1, shape.vocabulary, (len(lengths), *shape.source), generator=generator)
        source[0] = NOTHING
        source[1, 5:] = NOTHING
    return Requests(seed=torch.arange(len(lengths)), prompt=prompt, source=source)


def finished(family: Family, networks: dict[str, nn.Module], requests: Requests, width: int) -> TextState:
    slots = Slots(family, networks, width, select(requests, slice(0, 1)))
    slots.admit(range(len(requests)), requests)
    for _ in range(10 * LONG):
        if bool(slots.state.done.all()):
            break
        slots.advance()
    assert isinstance(slots.state, TextState)
    return slots.state


def text_of(state: TextState, row: int) -> tuple[Tensor, int, int]:
    """Prompt and output of a row, the prompt's length and the output's."""
    given, length = int(state.given[row]), int(state.length[row])
    return torch.cat((state.prompt[row, :given], state.output[row, :length])), given, length


@pytest.mark.parametrize("name", token_families())
def test_the_cache_changes_nothing(name: str) -> None:
    """The log probability of each drawn token is what the plain forward of the whole row says, over all chunks."""
    shape = long_shape(name)
    family, networks = ready(name, shape)
    requests = prompts(shape, [1, 2, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 9], {4: 30, 5: CHUNK})
    # a token that no row draws ends it, so END may be drawn inside
    requests.options = {"top_logprobs": torch.full((6,), 20), "end": torch.full((6,), -5)}
    state = finished(family, networks, requests, 6)
    for row in range(6):
        text, given, length = text_of(state, row)
        assert length == LONG - given
        source = requests.source[row : row + 1] if requests.source is not None else None
        with torch.no_grad():
            every = networks["decoder"](text[None], source).log_softmax(-1)[0, given - 1 : -1]
        drawn = every.gather(1, text[given:, None])[:, 0]
        assert torch.allclose(state.logprob[row, :length], drawn, atol=1e-5)
        values, tokens = every.topk(20)
        assert torch.allclose(state.top_logprob[row, :length], values, atol=1e-5)
        assert (state.top_token[row, :length] == tokens).float().mean() > 0.99
    assert (state.output == END).any(), "a document began inside an output"


@pytest.mark.parametrize("name", token_families())
def test_documents_do_not_see_each_other(name: str) -> None:
    """A row of two documents is as likely as the two rows alone, and its padding changes nothing."""
    shape = long_shape(name)
    family, networks = ready(name, shape)
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randint(1, 30, (size,), generator=generator) for size in (20, 33))
    end = torch.tensor([END])
    rows = [torch.cat(parts) for parts in ((end, first, end), (end, second, end))]
    rows.append(torch.cat((rows[0], second, end)))
    source = torch.randint(1, 30, (1, *shape.source), generator=generator) if shape.source else None
    alone = [float(nats_of(family, networks, [row], source)) for row in rows]
    assert alone[2] == pytest.approx(alone[0] + alone[1], rel=1e-5)
    together = nats_of(family, networks, rows, source)
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def nats_of(
    family: Family, networks: dict[str, nn.Module], rows: list[Tensor], source: Tensor | None
) -> Tensor:
    data = torch.full((len(rows), LONG), NOTHING)
    for place, row in enumerate(rows):
        data[place, : len(row)] = row
    sources = None if source is None else source.expand(len(rows), -1)
    with torch.no_grad():
        nats = family.nats(
            networks, Batch(data=data, length=torch.tensor([len(row) for row in rows]), source=sources)
        )
    assert nats is not None
    return nats


@pytest.mark.parametrize("name", token_families())
def test_given_tokens_are_not_counted_and_the_loss_is_the_mean_of_the_rest(name: str) -> None:
    shape = texts_of(name)[1]
    family, networks = ready(name, shape)
    batch = batch_of(shape, 4)
    with torch.no_grad():
        loss, logged = family.loss("decoder", networks, batch, 0)
        nats = family.nats(networks, batch)
        logits = networks["decoder"](batch.data[:, :-1], batch.source).log_softmax(-1)
    wanted = torch.zeros(4)
    assert batch.given is not None
    for row in range(4):
        for place in range(int(batch.given[row]), int(batch.length[row])):
            wanted[row] -= logits[row, place - 1, batch.data[row, place]]
    assert nats is not None
    assert torch.allclose(nats, wanted, rtol=1e-4)
    predicted = int((batch.length - batch.given).sum())
    assert float(loss) == pytest.approx(float(wanted.sum()) / predicted, rel=1e-4)
    assert float(logged["bits_per_token"]) == pytest.approx(float(loss) / math.log(2))


@pytest.mark.parametrize("name", token_families())
def test_rows_come_and_go_without_a_trace(name: str) -> None:
    """A row with long prompts beside it, in a state that others have used, has the bits that it has alone."""
    shape = long_shape(name)
    family, networks = ready(name, shape)
    requests = prompts(shape, [CHUNK + 20, 1, 2 * CHUNK, 40, 2], {0: 10})
    requests.options = {
        "temperature": torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0]),
        "top_logprobs": torch.full((5,), 3),
    }
    alone = [finished(family, networks, select(requests, torch.tensor([row] * 1)), 3) for row in range(5)]
    slots = Slots(family, networks, 3, select(requests, slice(0, 1)))
    with torch.inference_mode():
        for value in tensors(slots.state).values():
            if value.is_floating_point():
                value.fill_(float("nan"))
    slots.admit([2], select(requests, slice(2, 3)))
    slots.advance()
    places, waiting, seen = {2: 2}, [0, 1, 3, 4], {}
    while places:
        for place in [place for place in range(3) if place not in places]:
            if waiting:
                places[place] = waiting.pop(0)
                slots.admit([place], select(requests, torch.tensor([places[place]])))
        slots.advance()
        for place in [place for place in places if bool(slots.state.done[place])]:
            seen[places.pop(place)] = {
                name: value[place].clone() for name, value in tensors(slots.state).items()
            }
    for row in range(5):
        for field in ("output", "length", "finish", "logprob", "top_token", "top_logprob", "step"):
            assert torch.equal(seen[row][field], getattr(alone[row], field)[0]), (row, field)


@pytest.mark.parametrize("name", token_families())
def test_how_a_row_ends(name: str) -> None:
    shape = long_shape(name)
    family, networks = ready(name, shape)
    requests = prompts(shape, [1, 3, LONG - 2, LONG, 5], {})
    never = -5
    requests.options = {
        "max_tokens": torch.tensor([7, 1, 50, 50, 50]),
        "end": torch.tensor([never, never, never, never, 0]),
    }
    state = finished(family, networks, requests, 5)
    assert state.length[:4].tolist() == [7, 1, 2, 0]
    assert state.finish[:4].tolist() == [2, 2, 2, 2]
    # the fifth goes again with the second token that it drew as its end
    second = int(state.output[4, 1])
    requests.options["end"] = torch.tensor([never, never, never, never, second])
    again = finished(family, networks, requests, 5)
    first = int((state.output[4] == second).nonzero()[0])
    assert again.length[4] == first
    assert again.finish[4] == 1
    assert again.output[4, :first].tolist() == state.output[4, :first].tolist()
    assert (again.output[4, first:] == NOTHING).all()


@pytest.mark.parametrize("name", token_families())
def test_a_prompt_that_does_not_fit_is_refused(name: str) -> None:
    shape = texts_of(name)[0]
    family, networks = ready(name, shape)
    requests = requests_of([1], shape)
    requests.prompt = torch.ones(1, 25, dtype=torch.int64)
    with pytest.raises(ValueError, match="context of 24"):
        family.start(networks, requests)
    assert language(networks).context == 24


@pytest.mark.parametrize("name", token_families())
def test_without_a_prompt_a_row_begins_with_the_boundary(name: str) -> None:
    shape = texts_of(name)[0]
    family, networks = ready(name, shape)
    free = Requests(seed=torch.arange(3))
    asked = Requests(seed=torch.arange(3), prompt=torch.full((3, 1), END))
    assert torch.equal(sample(family, networks, free, 3), sample(family, networks, asked, 3))


def test_a_long_prompt_stalls_nobody_and_those_that_wait_take_turns() -> None:
    shape = long_shape("gpt")
    family, networks = ready("gpt", shape)
    slots = Slots(family, networks, 3, prompts(shape, [1], {}))
    slots.admit([0, 1, 2], prompts(shape, [2 * CHUNK + 5, 2 * CHUNK + 5, 1], {}))
    entered = []
    for _ in range(6):
        slots.advance()
        assert isinstance(slots.state, TextState)
        entered.append(slots.state.entered.tolist())
    assert [row[2] for row in entered] == [1, 2, 3, 4, 5, 6]
    assert [row[0] for row in entered] == [64, 64, 128, 128, 133, 134]
    assert [row[1] for row in entered] == [0, 64, 64, 128, 133, 134], "the ends of both enter together"


def test_short_prompts_enter_together_up_to_a_chunk() -> None:
    shape = long_shape("gpt")
    family, networks = ready("gpt", shape)
    half = CHUNK // 2 + 1  # its last token is drawn from and not entered
    slots = Slots(family, networks, 4, prompts(shape, [1], {}))
    slots.admit([0, 1, 2, 3], prompts(shape, [half, half, half, 1], {}))
    slots.advance()
    assert isinstance(slots.state, TextState)
    assert slots.state.entered.tolist() == [half, half, 0, 1]
    assert slots.state.waited.tolist() == [0, 0, 1, 0]
    slots.advance()
    assert slots.state.entered[:3].tolist() == [half + 1, half + 1, half]


def test_a_source_is_what_a_target_is_made_from() -> None:
    shape = long_shape("seq2seq")
    family, networks = ready("seq2seq", shape)
    tokens = torch.randint(1, 30, (2, 12), generator=torch.Generator().manual_seed(1))
    source = torch.full((2, 70), NOTHING)
    with torch.no_grad():
        empty = networks["decoder"](tokens, source)
        assert torch.isfinite(empty).all()
        source[1, :3] = torch.tensor([5, 6, 7])
        some = networks["decoder"](tokens, source)
    assert torch.allclose(some[0], empty[0], atol=1e-5)
    assert not torch.allclose(some[1], empty[1], atol=1e-2)
    with pytest.raises(ValueError, match="source"):
        Seq2Seq().networks(texts_of("gpt")[0])
    assert family.tasks == {"source"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 130}, "width = 130"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads = 3"),
        ({"optimizer": "sgd"}, "sgd"),
        ({"layers": 0}, "layers = 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT(**settings)  # type: ignore[arg-type]


def test_muon_takes_fused_matrices_apart_and_is_torchs_for_whole_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 8, 20, generator=generator)
    singular = torch.linalg.svdvals(orthogonal(stack).float())
    assert ((singular > 0.5) & (singular < 1.4)).all()
    shapes, gradients = [(16, 8), (8, 16), (8, 8)], []
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    mine = Muon([{"params": ours}], lr=0.1, weight_decay=0.2)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2)
    halves = [nn.Parameter(half.clone()) for half in theirs[0].detach().split(8)]
    fused = nn.Parameter(theirs[0].detach().clone())
    parted = Muon([{"params": [fused], "parts": (8, 8)}], lr=0.1, weight_decay=0.2)
    whole = Muon([{"params": halves}], lr=0.1, weight_decay=0.2)
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for weights in (ours, theirs):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
        fused.grad = gradients[0].clone()
        halves[0].grad, halves[1].grad = (half.clone() for half in gradients[0].split(8))
        for optimizer in (mine, reference, parted, whole):
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        assert torch.allclose(own, other, atol=2e-2)
    assert torch.allclose(fused, torch.cat(halves), atol=1e-6)
    assert not torch.allclose(fused, ours[0], atol=2e-2)


@pytest.mark.parametrize("shape", [(3, 5, 16), (3, 5, 4, 8)])
def test_the_norm_and_its_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape[2:], generator=generator, requires_grad=True)
    inputs = torch.randn(shape, generator=generator, requires_grad=True)
    slope = torch.randn(shape, generator=generator)
    plain = nn.functional.rms_norm(inputs, shape[-1:], eps=1e-6) * weight
    wanted = torch.autograd.grad(plain, (inputs, weight), slope)
    own = normed(inputs, weight)
    assert torch.allclose(own, plain, atol=1e-6)
    for found, expected in zip(torch.autograd.grad(own, (inputs, weight), slope), wanted, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(normed(inputs, weight), plain, atol=1e-6)


@pytest.mark.parametrize("group", [1, 2])
def test_a_rows_bits_depend_neither_on_its_place_nor_on_how_far_others_are(group: int) -> None:
    """In caches of many blocks, as in the kernels that compute them."""
    generator = torch.Generator().manual_seed(group)
    heads, size, places = 3, 16, 1024
    queries = torch.randn(heads, group, size, generator=generator)
    own = torch.randn(2, heads, places, size, generator=generator)
    for place in (5, 70, 600):
        found = []
        for at in range(3):
            for others in (place, places // 2 - 1, places - 1):
                held = torch.randn(2, 3, heads, places, size, generator=generator)
                asked = torch.randn(3, heads, group, size, generator=generator)
                held[:, at], asked[at] = own, queries
                last = torch.full((3,), max(place, others))
                last[at] = place
                bias = views._bias(torch.zeros_like(last), last, places).expand(-1, heads, -1)
                flat = (asked.flatten(0, 1), *held.flatten(1, 2), bias.reshape(-1, 1, places), last)
                found.append(views.used_alone(*flat).view(3, heads, group, size)[at])
        assert all(torch.equal(one, found[0]) for one in found), place


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weight_decay_acts_on_matrices_and_on_nothing_else(kind: str) -> None:
    """Each weight stands in one group; norms, biases and scales are not drawn to zero."""
    network = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "linear": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
        }
    )
    network.register_parameter("scale", nn.Parameter(torch.ones(2, 2)))
    decayed: dict[int, float] = {}
    for optimizer in optimizers_of(network, kind, 0.1, 0.1, 0.3):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                assert id(weight) not in decayed
                decayed[id(weight)] = group["weight_decay"]
    found = {name: decayed[id(weight)] for name, weight in network.named_parameters()}
    matrices = {"embedding.weight", "linear.weight"}
    assert found == {name: 0.3 if name in matrices else 0.0 for name in found}
    assert len(found) == 6
