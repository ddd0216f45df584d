"""The warnings of a training whose GAN collapses, or whose discriminator has won."""

from __future__ import annotations

import pytest

from components.families.attention_gan import AttentionGAN
from components.families.gan import GAN
from components.project import open_project
from components.train import collapse
from components.train.collapse import LEAST_SPREAD, MOST_ACCURACY, PATIENCE, Collapse
from components.train.launch import train
from components.train.runs import load_run, read_progress
from flows.commands.runs import _sentence
from flows.progress import training_bar

LOW, HIGH = LEAST_SPREAD - 0.1, LEAST_SPREAD + 0.1
LASTS = PATIENCE // 100
"""The reports, 100 steps apart, for which a symptom must last."""


def told(watch: Collapse, values: list[float], metric: str = "spread", first: int = 100) -> list[int]:
    """The numbers of the reports, 100 steps apart, that warned."""
    return [number for number, value in enumerate(values) if watch.see(first + 100 * number, {metric: value})]


def test_a_collapse_is_said_once_when_it_has_lasted() -> None:
    assert told(Collapse(GAN(), "r"), [LOW] * 4 * LASTS) == [LASTS]
    assert told(Collapse(GAN(), "r"), [HIGH] * 4 * LASTS) == []
    assert told(Collapse(GAN(), "r"), ([LOW] * LASTS + [HIGH]) * 4) == [], "it never lasted"


def test_a_second_onset_is_said_again_and_a_flicker_is_none() -> None:
    low, high = [LOW] * (LASTS + 3), [HIGH] * (LASTS + 3)
    assert told(Collapse(GAN(), "r"), [*low, *high[:3], *low]) == [LASTS]
    assert told(Collapse(GAN(), "r"), [*low, *high, *low]) == [LASTS, len(low + high) + LASTS]


def test_the_warning_says_what_to_change_by_what_the_family_has() -> None:
    watch = Collapse(GAN(r1=0.25), "mnist-gan")
    for step in (0, PATIENCE):
        said = watch.see(step, {"spread": 0.1, "accuracy": 0.7})
    (sentence,) = said
    assert "mnist-gan" in sentence
    assert "0.10" in sentence
    for mend in ("model.diversity to 1 ", "raise model.r1 (it is 0.25)", "lower model.lr"):
        assert mend in sentence
    other = Collapse(AttentionGAN(diversity=2.0), "r")
    assert "model.diversity to 4 (it is 2)" in other._mends(collapse.ALIKE)
    assert "model.r1" not in other._mends(collapse.ALIKE)


def test_a_discriminator_that_is_always_right_is_said() -> None:
    assert told(Collapse(GAN(), "r"), [0.75] * 4 * LASTS, "accuracy") == []
    assert told(Collapse(GAN(), "r"), [MOST_ACCURACY] * 4 * LASTS, "accuracy") == []
    assert told(Collapse(GAN(), "r"), [1.0] * 4 * LASTS, "accuracy") == [LASTS]
    watch = Collapse(AttentionGAN(), "r")
    for step in (0, PATIENCE):
        said = watch.see(step, {"accuracy": 1.0})
    assert "lower model.balance (it is 4)" in said[0]


def test_a_training_that_goes_on_does_not_repeat_itself() -> None:
    watch = Collapse(GAN(), "r")
    watch.replay({"step": 100 * number, "spread": LOW} for number in range(2 * LASTS))
    assert told(watch, [LOW] * 4 * LASTS, first=200 * LASTS) == []


@pytest.mark.usefixtures("project")
def test_the_warning_reaches_the_terminal_and_the_record(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collapse, "LEAST_SPREAD", 10.0)
    monkeypatch.setattr(collapse, "PATIENCE", 10)
    short = ["train.steps=30", "train.log_every=10", "train.threads=1", "model.latent=16"]
    with training_bar("digits-gan", 30) as show:
        trained = train(open_project(), "digits-gan", short, workers=0, progress=show)
    assert capfd.readouterr().err.count("Warning: The samples of digits-gan") == 1
    record = load_run(trained.folder)
    lines = read_progress(record)
    assert ["warnings" in line for line in lines] == [False, True, False]
    assert "\nWarning: The samples of digits-gan" in _sentence(record, lines[1])
