from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.errors import FailedError
from components.evaluation.intervals import average
from components.evaluation.measurement import Subject
from components.evaluation.nats import corrected, likelihoods
from components.families.family import Batch, Requests


def rows(count: int, seed: int = 0) -> list[Batch]:
    data = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed)).double() * 20 + 100
    return [Batch(data=part, length=torch.ones(len(part))) for part in torch.split(data, 64)]


def subject(nats: object, weighed: object) -> Subject:
    def sample(requests: Requests, width: int) -> Tensor:
        raise AssertionError("nothing is drawn")

    return Subject(sample, nats, weighed)  # type: ignore[arg-type]


def first(batch: Batch) -> Tensor:
    return batch.data[:, 0, 0, 0]


def test_only_the_first_rows_are_weighed_and_the_others_correct_them() -> None:
    seen: list[int] = []

    def weighed(batch: Batch, draws: int) -> Tensor:
        seen.append(len(batch))
        return first(batch) - 2 - batch.data[:, 0, 0, 1] / 100

    test = rows(300)
    found = likelihoods(subject(first, weighed), test, 70, 0)
    assert sum(seen) == 70
    everything = torch.cat([weighed(batch, 1) for batch in test])
    tight = found["importance_weighted_nats"]
    assert tight.value == pytest.approx(float(everything.mean()), abs=0.1)
    assert (tight.low + tight.high) / 2 == pytest.approx(tight.value)
    alone = average(everything[:70])
    assert tight.high - tight.low < 0.7 * (alone[2] - alone[1])


def test_with_all_rows_weighed_the_estimate_is_their_mean() -> None:
    values = first(rows(50)[0])
    assert corrected(values - 1, values) == pytest.approx(average(values - 1))


def test_the_corrected_interval_covers_the_truth() -> None:
    hits = 0
    for seed in range(200):
        many = torch.cat([first(batch) for batch in rows(400, seed)])
        generator = torch.Generator().manual_seed(seed)
        few = many - 3 + torch.randn(400, generator=generator).double() * 4
        _, low, high = corrected(few[:50], many)
        hits += low < 97 < high
    assert 0.9 < hits / 200 < 0.99


def test_models_without_a_likelihood_have_none_and_what_is_not_finite_is_named() -> None:
    assert likelihoods(subject(lambda batch: None, lambda batch, draws: None), rows(10), 5, 0) == {}
    plain = likelihoods(subject(first, lambda batch, draws: None), rows(10), 5, 0)
    assert list(plain) == ["negative_elbo_nats"]
    single = likelihoods(subject(first, lambda batch, draws: first(batch)), rows(10), 1, 0)
    assert list(single) == ["negative_elbo_nats"], "of one weighed row there is no interval"
    with pytest.raises(FailedError, match="likelihoods of test rows are not all finite"):
        likelihoods(subject(first, lambda batch, draws: first(batch) / 0), rows(10), 5, 0)


def test_random_numbers_of_the_model_are_the_same_each_time_and_leave_no_trace() -> None:
    noisy = subject(
        lambda batch: first(batch) + torch.randn(len(batch)),
        lambda batch, draws: first(batch) + torch.randn(len(batch)),
    )
    before = torch.random.get_rng_state()
    assert likelihoods(noisy, rows(40), 20, 0) == likelihoods(noisy, rows(40), 20, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
