"""Windows to tokens and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.errors import UserError
from components.modalities.binning import ANY, FILE, HEAD, LEVELS, Binning, Scaling, fit, load_binning
from tests.components.waves import waves

SCALINGS: list[Scaling] = ["mean", "standard", "last", "steps"]


def windows() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    views = np.lib.stride_tricks.sliding_window_view(waves(), 32, axis=0)  # [N, 2, 32]
    return np.concatenate([views[:, 0], views[:, 1]]), np.repeat([0, 1], len(views))


def binning(scaling: Scaling = "standard", bins: int = 64) -> Binning:
    found, channel = windows()
    return fit(found, channel, ["low", "high"], 24, 8, 8, scaling, bins)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_values_come_back_to_a_bin(scaling: Scaling) -> None:
    one = binning(scaling)
    found, channel = windows()
    place, size = one.measured(found, np.full(len(found), 24), channel)
    tokens = one.tokens(found, place, size)
    assert one.first_bin <= tokens.min()
    assert tokens.max() < one.vocabulary
    error = np.abs(one.values(tokens, place, size) - found) / size[:, None]
    assert np.quantile(error, 0.999) < max(one.widths)
    assert error.mean() < 0.05 * np.ptp(one.edges) / 2


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_scale_that_is_learned_is_that_of_no_unit(scaling: Scaling) -> None:
    one, (found, _) = binning(scaling), windows()
    unknown, count = np.full(len(found), -1), np.full(len(found), 24)
    assert np.array_equal(
        one.tokens(found, *one.measured(found, count, unknown)),
        one.tokens(1024 * found, *one.measured(1024 * found, count, unknown)),
    )


def test_only_the_context_decides_the_scale() -> None:
    one, (found, channel) = binning(), windows()
    other = found.copy()
    other[:, 24:] = 1e6
    count = np.full(len(found), 24)
    for before, after in zip(
        one.measured(found, count, channel), one.measured(other, count, channel), strict=True
    ):
        assert np.array_equal(before, after)


def test_an_idle_window_has_a_size() -> None:
    one = binning()
    idle = np.full((1, 32), 5.0)
    for channel in (0, -1):
        place, size = one.measured(idle, np.array([24]), np.array([channel]))
        assert size[0] > 0
        assert np.allclose(one.values(one.tokens(idle, place, size), place, size), 5.0, atol=size[0])


def test_a_head_tells_channel_place_and_size() -> None:
    one, (found, channel) = binning(), windows()
    place, size = one.measured(found, np.full(len(found), 24), channel)
    head = one.heads(channel, place, size)
    assert head.shape == (len(found), HEAD)
    which, near, about = one.told(head[:, 1:])
    assert np.array_equal(which, channel)
    assert np.corrcoef(near, place)[0, 1] > 0.99
    assert np.abs(np.log(about / size)).mean() < 0.05
    counts = np.bincount(head[channel == 0, 2] - one.first_place, minlength=LEVELS)
    assert counts.min() > 0, "levels are equally frequent"


def test_what_is_no_bin_repeats_the_value_before() -> None:
    one = binning()
    tokens = np.array([[one.first_bin + 5, 0, ANY, one.first_bin + 7]])
    found = one.values(tokens, np.zeros(1), np.ones(1))[0]
    assert found[0] == found[1] == found[2] == one.centers[5]
    assert found[3] == one.centers[7]


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    one = binning()
    one.save(tmp_path)
    again = load_binning(tmp_path)
    assert again.vocabulary == one.vocabulary
    found, channel = windows()
    count = np.full(len(found), 24)
    tokens = [it.tokens(found, *it.measured(found, count, channel)) for it in (one, again)]
    assert np.array_equal(*tokens)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match="is damaged; prepare the data or fetch the model again"):
        load_binning(tmp_path)
