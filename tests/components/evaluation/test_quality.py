from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from components.evaluation.quality import psnr, ssim, window_of


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_that_of_a_known_error_in_levels() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    wrong = truth + torch.tensor([10, 20]).view(2, 1, 1, 1) / 127.5
    expected = [20 * math.log10(255 / error) for error in (10, 20)]
    assert psnr(wrong, truth).tolist() == pytest.approx(expected, rel=1e-5)
    assert psnr(truth, truth).tolist() == pytest.approx([58.92, 58.92], abs=0.01)


def test_psnr_in_a_hole_looks_at_nothing_else() -> None:
    truth, wrong = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    hole = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hole[..., :2, :2] = True
    wrong[..., :2, :2] = 10 / 127.5
    assert float(psnr(wrong, truth, hole)) == pytest.approx(20 * math.log10(25.5), rel=1e-5)


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    """The definition, with scipy's Gaussian filter cut at the same window, where the window fits."""

    def blurred(values: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(values, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    first, second = blurred(one), blurred(other)
    shared = blurred(one * other) - first * second
    spread = blurred(one**2) - first**2 + blurred(other**2) - second**2
    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * first * second + low) * (2 * shared + high)
    return float((values / ((first**2 + second**2 + low) * (spread + high))).mean())


def test_ssim_is_the_definition_by_another_filter() -> None:
    one = picture(0, 2, 3, 20, 17)
    other = (one + 0.3 * picture(1, 2, 3, 20, 17)).clamp(-1, 1)
    levels = [((data + 1) * 127.5).double().numpy() for data in (one, other)]
    expected = [np.mean([by_scipy(levels[0][n, c], levels[1][n, c]) for c in range(3)]) for n in range(2)]
    assert ssim(one, other).tolist() == pytest.approx(expected, rel=1e-6)
    assert ssim(one, one).tolist() == pytest.approx([1, 1])


def test_small_pictures_have_a_smaller_window() -> None:
    assert [window_of((1, side, 20)) for side in (7, 8, 11, 28)] == [7, 7, 11, 11]
    assert ssim(picture(0, 1, 1, 8, 8), picture(1, 1, 1, 8, 8)).shape == (1,)
