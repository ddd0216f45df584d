"""Choosing tokens: every option against a slow reference that follows the definitions, one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from components.families.layers.choose import NEUTRAL, choose, least, table, told, used

VOCABULARY = 40


def reference(
    logits: list[float], own: dict[str, float], prompt: list[int], output: list[int]
) -> list[float]:
    """The probabilities from which a row's token is drawn, by the definitions."""
    values = list(logits)
    for token in range(len(values)):
        if token in prompt or token in output:
            penalty = own["repetition_penalty"]
            values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
        values[token] -= own["frequency_penalty"] * output.count(token)
        values[token] -= own["presence_penalty"] * (token in output)
    if own["temperature"] == 0:
        return [float(token == values.index(max(values))) for token in range(len(values))]
    odds = [math.exp((value - max(values)) / own["temperature"]) for value in values]
    if own["top_k"]:
        last = sorted(odds, reverse=True)[min(int(own["top_k"]), len(odds)) - 1]
        odds = [odd if odd >= last else 0.0 for odd in odds]
    if own["top_p"] < 1:
        kept, mass = [], 0.0
        for odd in sorted(odds, reverse=True):
            kept.append(odd)
            mass += odd
            if mass >= own["top_p"] * sum(odds):
                break
        odds = [odd if odd >= kept[-1] else 0.0 for odd in odds]
    odds = [odd if odd >= own["min_p"] * max(odds) else 0.0 for odd in odds]
    return [odd / sum(odds) for odd in odds]


def probabilities(logits: Tensor, options: dict[str, Tensor], prompt: Tensor, output: Tensor) -> Tensor:
    """What `choose` draws from, read off its draws at many evenly spaced numbers, [R, V]."""
    rows, points = len(logits), 4000
    settings = table(options, rows, torch.device("cpu"))
    asked = used(settings, torch.ones(rows, dtype=torch.bool))
    found = torch.zeros(logits.shape)
    for row in range(rows):
        place = torch.full((points,), row)
        uniform = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        drawn = choose(logits[place], settings[place], asked, uniform, prompt[place], output[place])
        found[row] = torch.bincount(drawn, minlength=logits.shape[1]) / points
    return found


def rows_of(count: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(count, vocabulary, generator=generator) * 2
    prompt = torch.randint(0, vocabulary, (count, 9), generator=generator)
    output = torch.randint(0, vocabulary, (count, 12), generator=generator)
    prompt[:, 6:], output[:, 8:] = -1, -1
    output[:, 1] = output[:, 0]
    return logits, prompt, output


OPTIONS = {
    "temperature": [0.0, 0.3, 0.7, 1.0, 2.5],
    "top_k": [0, 1, 3, 39, 1000],
    "top_p": [1.0, 0.05, 0.5, 0.9, 0.999],
    "min_p": [0.0, 0.01, 0.1, 0.5, 1.0],
    "repetition_penalty": [1.0, 1.2, 2.0, 0.8, 5.0],
    "frequency_penalty": [0.0, 0.5, 2.0, -1.0, 1.0],
    "presence_penalty": [0.0, 0.5, 2.0, -1.0, 1.0],
}


@pytest.mark.parametrize("names", [*([name] for name in OPTIONS), list(OPTIONS)], ids=" ".join)
def test_draws_follow_the_definition(names: list[str]) -> None:
    logits, prompt, output = rows_of(5)
    options = {name: torch.tensor(OPTIONS[name], dtype=torch.float32) for name in names}
    if len(names) > 1:
        options["temperature"][0] = 1.5
        options["min_p"][4] = 0.05
    found = probabilities(logits, options, prompt, output)
    for row in range(5):
        own = {
            name: float(options[name][row]) if name in options else value for name, value in NEUTRAL.items()
        }
        wanted = torch.tensor(
            reference(logits[row].tolist(), own, prompt[row].tolist(), output[row].tolist())
        )
        assert torch.allclose(found[row], wanted, atol=5e-4), f"row {row}"
        assert ((found[row] > 0) <= (wanted > 0)).all()


def test_frequencies_of_random_numbers_are_the_probabilities() -> None:
    logits, prompt, output = rows_of(1)
    count = 40_000
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    settings = table({}, 1, torch.device("cpu")).expand(count, -1)
    drawn = choose(logits.expand(count, -1), settings, set(), uniform, prompt, output)
    wanted = logits[0].double().softmax(0) * count
    chi = float(((torch.bincount(drawn, minlength=VOCABULARY) - wanted).square() / wanted).sum())
    # 39 degrees of freedom: mean 39, standard deviation 8.8
    assert chi < 39 + 5 * 8.8


def test_the_number_one_and_the_number_zero_give_tokens_that_can_be() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -200.0]])
    settings = table({}, 1, torch.device("cpu"))
    nothing = torch.full((1, 1), -1)
    for chance, wanted in ((0.0, 1), (1.0, 2)):
        uniform = torch.tensor([chance], dtype=torch.float64)
        assert choose(logits, settings, set(), uniform, nothing, nothing).tolist() == [wanted]


def test_of_equal_tokens_the_first_is_greedy_and_all_are_kept_together() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0, -3.0]]).expand(3, -1)
    options = {"top_k": torch.tensor([1, 3, 0]), "top_p": torch.tensor([1.0, 1.0, 0.1])}
    settings = table(options, 3, torch.device("cpu"))
    kept = logits - 2.0 >= least(logits - 2.0, (logits - 2.0).exp(), settings, {"top_k", "top_p"})
    assert kept.int().tolist() == [[0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0]]
    cold = table({"temperature": torch.zeros(3)}, 3, torch.device("cpu"))
    uniform, nothing = torch.rand(3, dtype=torch.float64), torch.full((3, 1), -1)
    assert choose(logits, cold, {"greedy"}, uniform, nothing, nothing).tolist() == [1, 1, 1]


def test_a_tiny_temperature_is_greedy_and_a_huge_one_uniform() -> None:
    logits, prompt, output = rows_of(2)
    found = probabilities(logits, {"temperature": torch.tensor([1e-30, 1e30])}, prompt, output)
    assert found[0].argmax() == logits[0].argmax()
    assert found[0].max() == 1
    assert torch.allclose(found[1], torch.full((VOCABULARY,), 1 / VOCABULARY), atol=5e-4)


@pytest.mark.parametrize("spread", [0.001, 4.0])
def test_the_nucleus_of_a_large_vocabulary(spread: float) -> None:
    """Also where it is wider than the candidates that are looked at first."""
    generator = torch.Generator().manual_seed(2)
    scaled = torch.randn(4, 3000, generator=generator) * spread
    scaled -= scaled.amax(1, keepdim=True)
    share = torch.tensor([0.9, 0.3, 1.0, 0.999])
    settings = table({"top_p": share}, 4, torch.device("cpu"))
    kept = scaled >= least(scaled, scaled.exp(), settings, {"top_p"})
    for row in range(4):
        mass, order = scaled[row].double().softmax(0).sort(descending=True)
        count = int((mass.cumsum(0) - mass < float(share[row])).sum()) if share[row] < 1 else 3000
        assert kept[row].sum() == count
        assert kept[row, order[:count]].all()


def test_the_options_of_a_row_do_not_touch_the_bits_of_another() -> None:
    logits, prompt, output = rows_of(3, vocabulary=2000)
    plain = table({}, 3, torch.device("cpu"))
    every = torch.tensor([True, True, True])
    for uniform in torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)):
        alone = choose(logits, plain, set(), uniform, prompt, output)
        for name, values in OPTIONS.items():
            for value in values:
                own = torch.tensor([NEUTRAL[name], value, NEUTRAL[name]])
                settings = table({name: own}, 3, torch.device("cpu"))
                drawn = choose(logits, settings, used(settings, every), uniform, prompt, output)
                assert drawn[0] == alone[0], name
                assert drawn[2] == alone[2], name


def test_rows_that_hold_nan_disturb_nobody() -> None:
    logits, prompt, output = rows_of(3)
    options = {name: torch.tensor([values[2]] * 3) for name, values in OPTIONS.items()}
    settings = table(options, 3, torch.device("cpu"))
    uniform = torch.rand(3, dtype=torch.float64)
    asked = used(settings, torch.ones(3, dtype=torch.bool))
    before = choose(logits, settings, asked, uniform, prompt, output)
    logits[1], settings[1] = math.nan, math.nan
    after = choose(logits, settings, asked, uniform, prompt, output)
    assert after[[0, 2]].tolist() == before[[0, 2]].tolist()
    assert used(settings, torch.tensor([False, False, False])) == set()


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(KeyError):
        table({"temprature": torch.ones(1)}, 1, torch.device("cpu"))


def test_log_probabilities_are_the_models_own() -> None:
    logits, _, _ = rows_of(2, vocabulary=15)
    own, tokens, values = told(logits, torch.tensor([4, 7]))
    every = logits.log_softmax(1)
    assert torch.equal(own, every[torch.arange(2), torch.tensor([4, 7])])
    assert tokens.shape == values.shape == (2, 20)
    assert torch.equal(tokens[:, :15], every.argsort(1, descending=True))
    assert torch.equal(values[:, :15], every.sort(1, descending=True).values)
    assert (tokens[:, 15:] == -1).all()
    assert (values[:, 15:] == -math.inf).all()
