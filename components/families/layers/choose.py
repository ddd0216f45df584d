"""From logits to tokens: penalties, temperature, top-k, top-p, min-p, and one uniform number a row.

A stage that no row asks for is skipped, and one that some rows ask for does not change the bits of the others:
their neutral settings divide by 1, subtract 0 and compare with −∞.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

NEUTRAL = {
    "temperature": 1.0,
    "top_k": 0.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": float("inf"),
    "end": 0.0,
    "top_logprobs": -1.0,
    "greedy": 0.0,
}
"""Every option and what it is where a request does not say; the columns of a table of options in this order."""
COLUMN = {name: column for column, name in enumerate(NEUTRAL)}
PENALTIES = {"repetition_penalty", "frequency_penalty", "presence_penalty"}
CANDIDATES = 1024
"""Tokens among which the nucleus is looked for before the whole vocabulary is sorted."""
TOP = 20
"""Tokens whose log probabilities are told at most."""


def table(options: dict[str, Tensor], rows: int, device: torch.device) -> Tensor:
    """The options of `rows` requests as one table, float32 [rows, options]; raises KeyError for an unknown one.

    A row of temperature 0 is "greedy", at temperature 1.
    """
    settings = _neutral(device).repeat(rows, 1)
    for name, value in options.items():
        settings[:, COLUMN[name]] = value.to(device, torch.float32)
    temperature = settings[:, COLUMN["temperature"]]
    settings[:, COLUMN["greedy"]] = (temperature <= 0).float()
    temperature.masked_fill_(temperature <= 0, 1.0)
    return settings


@cache
def _neutral(device: torch.device) -> Tensor:
    """The neutral values, [options]."""
    return torch.tensor(list(NEUTRAL.values()), device=device)


def used(settings: Tensor, rows: Tensor) -> set[str]:
    """The options that any of `rows` (bool [R]) sets to something else than the neutral value."""
    differs = ((settings != _neutral(settings.device)) & rows[:, None]).any(0).tolist()
    return {name for name, column in COLUMN.items() if differs[column]}


def choose(
    logits: Tensor, settings: Tensor, asked: set[str], uniform: Tensor, prompt: Tensor, output: Tensor
) -> Tensor:
    """One token a row, [R], of the distribution that `logits` [R, V] and the row's `settings` make.

    `asked` names the options that any row uses; `uniform` float64 [R] in [0, 1) decides, by the inverse of the
    cumulative distribution in the order of the vocabulary. A greedy row's is the likeliest token, of equals the
    first. `prompt` [R, P] and `output` [R, T], padded with negative numbers, are what the penalties count.
    """
    if asked & PENALTIES:
        logits = penalised(logits, settings, asked, prompt, output)
    scaled = logits - logits.amax(1, keepdim=True)
    if "temperature" in asked:
        scaled = scaled / settings[:, COLUMN["temperature"], None]
    weights = scaled.exp()
    if asked & {"top_k", "top_p", "min_p"}:
        weights = weights.masked_fill(scaled < least(scaled, weights, settings, asked), 0.0)
    drawn = inverse(weights, uniform)
    if "greedy" in asked:
        drawn = torch.where(settings[:, COLUMN["greedy"]] > 0, logits.argmax(1), drawn)
    return drawn


def inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """One place a row, [R], with the chances of `weights` [R, V] ≥ 0, by the inverse of their cumulative distribution.

    `uniform` float64 [R] in [0, 1) decides.
    """
    mass = weights.cumsum(1, dtype=torch.float64)
    # a seed's number may round to 1, and the drawn place must lie below the whole mass
    point = uniform[:, None].clamp(max=1.0 - 2.0**-53) * mass[:, -1:]
    return torch.searchsorted(mass, point, right=True).squeeze(1).clamp(max=weights.shape[1] - 1)


def penalised(logits: Tensor, settings: Tensor, asked: set[str], prompt: Tensor, output: Tensor) -> Tensor:
    """Logits after the repetition penalty (Keskar et al. 2019, arXiv:1909.05858, section 4.1), then OpenAI's two.

    The first divides positive logits of the tokens in prompt and output and multiplies negative ones, as in
    `transformers`; the others subtract, for tokens in the output, once or as often as they occur.
    """
    vocabulary = logits.shape[1]
    counts = counted(output, vocabulary)
    if "repetition_penalty" in asked:
        penalty = settings[:, COLUMN["repetition_penalty"], None]
        seen = (counts + counted(prompt, vocabulary)) > 0
        lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, lowered, logits)
    if "frequency_penalty" in asked:
        logits = logits - settings[:, COLUMN["frequency_penalty"], None] * counts
    if "presence_penalty" in asked:
        logits = logits - settings[:, COLUMN["presence_penalty"], None] * (counts > 0)
    return logits


def counted(tokens: Tensor, vocabulary: int) -> Tensor:
    """How often each token occurs in each row, float32 [R, V]; negative ones are nothing."""
    counts = torch.zeros(len(tokens), vocabulary + 1, device=tokens.device)
    place = torch.where(tokens < 0, vocabulary, tokens)
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))[:, :vocabulary]


def least(scaled: Tensor, weights: Tensor, settings: Tensor, asked: set[str]) -> Tensor:
    """The least scaled logit that is kept in each row, [R, 1]; the largest one is 0. Equals are kept together.

    `weights` are their exponentials. In this order, each on what the one before has left: the `top_k` largest; the
    fewest whose probabilities sum to `top_p` (Holtzman et al. 2020, arXiv:1904.09751); those of at least `min_p` times
    the largest probability (arXiv:2407.01082).
    """
    lowest = scaled.new_full((len(scaled), 1), float("-inf"))
    keep = settings[:, COLUMN["top_k"], None].long().clamp(0, scaled.shape[1])
    ordered = _largest(scaled, keep, asked) if asked & {"top_k", "top_p"} else lowest
    if "top_k" in asked:
        lowest = torch.where(keep > 0, ordered.gather(1, (keep - 1).clamp(min=0)), lowest)
    if "top_p" in asked:
        share = settings[:, COLUMN["top_p"], None]
        lowest = torch.maximum(lowest, nucleus(scaled, weights, ordered, lowest, share))
    if "min_p" in asked:
        lowest = torch.maximum(lowest, settings[:, COLUMN["min_p"], None].log())
    return lowest


def _largest(scaled: Tensor, keep: Tensor, asked: set[str]) -> Tensor:
    """As many of the largest as the options look at, [R, C], falling."""
    most = scaled.shape[1]
    if most > CANDIDATES:
        most = max(int(keep.max()), CANDIDATES if "top_p" in asked else 1)
    return scaled.topk(most).values


def nucleus(scaled: Tensor, weights: Tensor, ordered: Tensor, lowest: Tensor, share: Tensor) -> Tensor:
    """The least scaled logit of the nucleus of each row, [R, 1]; −∞ where `share` [R, 1] is 1.

    It is looked for among the largest, `ordered` [R, C]; only a row whose nucleus is wider is sorted as a whole.
    """
    total = weights.masked_fill(scaled < lowest, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    found, whole = _cut(ordered, lowest, share * total)
    found = torch.where(share < 1, found, float("-inf"))
    if scaled.shape[1] > ordered.shape[1]:
        wide = (~whole & (share < 1)).squeeze(1).nonzero().squeeze(1)
        if len(wide):
            every = scaled[wide].sort(1, descending=True).values
            found[wide] = _cut(every, lowest[wide], (share * total)[wide])[0]
    return found


def _cut(ordered: Tensor, lowest: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The last of `ordered` [R, C] (falling) before which less than `wanted` has come, and whether C sufficed."""
    weights = ordered.exp().masked_fill(ordered < lowest, 0.0).double()
    before = weights.cumsum(1) - weights
    inside = (before < wanted).sum(1, keepdim=True)
    return ordered.gather(1, (inside - 1).clamp(min=0)), inside < ordered.shape[1]


def told(logits: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The model's own log probability of `drawn` [R], and the likeliest `TOP` tokens with theirs, [R, TOP] each.

    Where the vocabulary is smaller, the rest is token −1 at −∞.
    """
    every = logits.log_softmax(1)
    values, tokens = every.topk(min(TOP, logits.shape[1]))
    missing = (0, TOP - tokens.shape[1])
    own = every.gather(1, drawn[:, None]).squeeze(1)
    return (
        own,
        torch.nn.functional.pad(tokens, missing, value=-1),
        torch.nn.functional.pad(values, missing, value=float("-inf")),
    )
