"""`genloom generate` of a product of sound: recordings, words in one file, by a server and by a model loaded here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from components.errors import UserError
from components.serving import sound
from components.serving.catalog import Loaded
from components.serving.place import Place
from components.serving.routes.models import describe
from tests.components.serving.asking import a_server
from tests.components.serving.hum import RATE, SAMPLES, WORDS, hum
from tests.components.serving.test_speech import heard

Genloom = Callable[..., Any]
ASK = ("generate", "digits", "--seed", 3)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Sound, under the name of a product that the project has; the server closes it."""
    return hum(tmp_path, "digits")


@pytest.fixture
def url(project: Path, loaded: Loaded) -> Iterator[str]:
    with a_server(project, {"digits": loaded}) as url:
        yield url


@pytest.mark.parametrize("kind", sound.KINDS)
def test_words_are_one_file(project: Path, genloom: Genloom, url: str, loaded: Loaded, kind: str) -> None:
    out = project / f"words{kind}"
    said = genloom(*ASK, "--prompt", "low high", "-o", out)
    assert said.code == 0, said.err
    assert said.out == f"digits/2 drew {out} with seed 3, by the server at {url}.\n"
    if kind != ".pcm":
        assert heard(out.read_bytes())[0] == ["low", "high"]
    if kind != ".opus":  # libsndfile gives each of its streams a number by chance
        here = Place("digits", 2, "audio", describe(loaded), loaded=loaded)
        assert sound.speak(here, "low high", 3, kind, {}).files == [out.read_bytes()]


def test_recordings_are_one_file_or_many(project: Path, genloom: Genloom, url: str) -> None:
    one = genloom(*ASK, "--label", "mid", "-o", project / "one.wav")
    assert one.code == 0, one.err
    assert soundfile.info(project / "one.wav").frames == SAMPLES
    several = genloom(*ASK, "-n", 4, "--label", "high", "-o", project / "four.wav")
    assert several.code == 0, several.err
    assert heard((project / "four.wav").read_bytes()) == (["high"] * 4, RATE)
    many = genloom(*ASK, "-n", 5, "-o", project / "many", "--json")
    assert many.code == 0, many.err
    content = json.loads(many.out)
    assert content["seeds"] == [3, 4, 5, 6, 7]
    assert set(content["labels"]) <= set(WORDS)
    for file, label in zip(content["files"], content["labels"], strict=True):
        assert heard(Path(file).read_bytes())[0] == [label]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "out.png"), "The recordings are WAV; name the file out.wav, or name a folder."),
        (
            ("--prompt", "low", "-o", "out.png"),
            "The recordings are WAV or MP3 or FLAC or OPUS or PCM; name the file",
        ),
        (("--prompt", "low", "--label", "low"), "With --prompt all words are in one file, without --label"),
        (("--prompt", "low", "-n", 2), "With --prompt all words are in one file, without --number"),
        (("--prompt", "loud"), "There is no class “loud”"),
        (("--label", "loud"), "There is no class “loud”"),
        (("--size", "8x8"), "digits makes sound, without --size; leave it out."),
        (("--top-p", 1), "digits makes sound, without --top-p; leave it out."),
        (
            ("--temperature", 1),
            "This model draws without “temperature”; leave it out (its options are guidance).",
        ),
    ],
)
def test_wrong_use_is_one_sentence(
    project: Path, genloom: Genloom, url: str, options: tuple[Any, ...], sentence: str
) -> None:
    said = genloom(*ASK, *options)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not (project / "out.wav").exists()


def test_a_model_without_classes_knows_no_words(tmp_path: Path) -> None:
    drone = hum(tmp_path, "drone", ())
    here = Place("drone", 2, "audio", describe(drone), loaded=drone)
    with pytest.raises(UserError, match="drone knows no words; leave --prompt out"):
        sound.speak(here, "low", 1, ".wav", {})
    assert len(sound.record(here, 2, 1, {"label": None}).files) == 2
    drone.engine.close()
