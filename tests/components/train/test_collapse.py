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


def told(watch: Collapse, values: list[float], metric: str = "spread", first: int = 100) -> list[int]:
    """The numbers of the reports, 100 steps apart, that warned."""
    return [number for number, value in enumerate(values) if watch.see(first + 100 * number, {metric: value})]


def test_a_collapse_is_said_once_when_it_has_lasted() -> None:
    lasts = PATIENCE // 100
    assert told(Collapse(GAN(), "r"), [LOW] * 20) == [lasts]
    assert told(Collapse(GAN(), "r"), [HIGH] * 20) == []
    assert told(Collapse(GAN(), "r"), ([LOW] * lasts + [HIGH]) * 4) == [], "it never lasted"


def test_a_second_onset_is_said_again_and_a_flicker_is_none() -> None:
    lasts = PATIENCE // 100
    assert told(Collapse(GAN(), "r"), [LOW] * 8 + [HIGH] * 3 + [LOW] * 8) == [lasts]
    assert told(Collapse(GAN(), "r"), [LOW] * 8 + [HIGH] * 8 + [LOW] * 8) == [lasts, 16 + lasts]


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
    assert told(Collapse(GAN(), "r"), [0.75] * 20, "accuracy") == []
    assert told(Collapse(GAN(), "r"), [MOST_ACCURACY] * 20, "accuracy") == []
    assert told(Collapse(GAN(), "r"), [1.0] * 20, "accuracy") == [PATIENCE // 100]
    watch = Collapse(AttentionGAN(), "r")
    for step in (0, PATIENCE):
        said = watch.see(step, {"accuracy": 1.0})
    assert "lower model.balance (it is 4)" in said[0]


def test_a_training_that_goes_on_does_not_repeat_itself() -> None:
    watch = Collapse(GAN(), "r")
    watch.replay({"step": 100 * number, "spread": LOW} for number in range(10))
    assert told(watch, [LOW] * 20, first=1000) == []


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
