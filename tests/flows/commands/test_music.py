"""`genloom data add` and `genloom generate` of music: MIDI files beside their sound and their piano rolls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

from components.data.counterpoint import piece
from components.errors import UserError
from components.modalities.midi import read_midi, write_midi
from components.music_rows import MidiRow
from components.project import open_project
from components.serving.catalog import Loaded
from components.train.plan import check_product, check_run
from tests.components.serving.asking import a_server
from tests.components.serving.songs import songs

Genloom = Callable[..., Any]
ASK = ("generate", "digits", "--seed", 3, "--bars", 2)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Music, under the name of a product that the project has; the server closes it."""
    return songs(tmp_path, "digits")


@pytest.fixture
def url(project: Path, loaded: Loaded) -> Iterator[str]:
    with a_server(project, {"digits": loaded}) as url:
        yield url


def test_pieces_lie_beside_their_sound_and_look(project: Path, genloom: Genloom, url: str) -> None:
    one = genloom(*ASK, "-o", project / "song.mid")
    assert one.code == 0, one.err
    assert one.out == f"digits/2 drew {project / 'song.mid'} with seed 3, by the server at {url}.\n"
    many = genloom(*ASK, "-n", 3, "-o", project / "songs", "--json")
    assert many.code == 0, many.err
    content = json.loads(many.out)
    assert content["seeds"] == [3, 4, 5]
    first = Path(content["files"][0])
    assert first.name == "digits-2-3.mid"
    assert first.read_bytes() == (project / "song.mid").read_bytes()
    for file in map(Path, content["files"]):
        assert 0 < read_midi(file, 1).length <= 8
        assert soundfile.info(file.with_suffix(".wav")).duration > 1
        assert Image.open(file.with_suffix(".png")).width > 8
    assert len(list((project / "songs").iterdir())) == 9


def test_a_prime_is_gone_on_from(project: Path, genloom: Genloom, url: str) -> None:
    (project / "prime.mid").write_bytes(write_midi(piece(1).cut(0, 8)))
    said = genloom(
        *ASK, "--prime", project / "prime.mid", "--temperature", 0.5, "--top-p", 0.9, "-o", "more.mid"
    )
    assert said.code == 0, said.err
    score = read_midi(project / "more.mid", 1)
    assert 8 < score.length <= 16
    assert score.cut(0, 7).notes == piece(1).cut(0, 7).notes
    over = genloom(*ASK, "--prime", "prime.mid", "-o", "prime.mid")
    assert over.code == 2
    assert "would take the place of prime.mid, which was given" in over.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "out.wav"), "The pieces are MID or MIDI; name the file out.mid, or name a folder."),
        (("-n", 2, "-o", "out.mid"), "2 pieces do not go into one file; name a folder, such as -o out."),
        (
            ("--prime", "absent.mid"),
            "absent.mid cannot be read (No such file or directory); name a MIDI file.",
        ),
        (("--label", "7"), "digits makes music, without --label; leave it out."),
        (("--prompt", "a song"), "digits makes music, without --prompt; leave it out."),
        (("--max-tokens", 7), "digits makes music, without --max-tokens; leave it out."),
        (("--temperature", 7), "temperature"),
    ],
)
def test_wrong_use_is_one_sentence(
    project: Path, genloom: Genloom, url: str, options: tuple[Any, ...], sentence: str
) -> None:
    said = genloom(*ASK, *options)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not (project / "out.mid").exists()


def test_own_files_from_folder_to_report(project: Path, genloom: Genloom) -> None:
    (project / "raw").mkdir()
    for number in range(40):
        (project / "raw" / f"{number}.mid").write_bytes(write_midi(piece(number)))
    (project / "raw" / "broken.mid").write_bytes(b"MThd")
    said = genloom("data", "add", "tunes", "raw", "--licence", "CC0", "--steps", 2, "--notation", "grid")
    assert said.code == 0, said.err
    assert "40 pieces\n1 left out: a broken MIDI file\n" in said.out
    assert "“tunes” (task prompt) with the runs tunes-gpt and tunes-lstm" in said.out
    where = open_project(project)
    row = where.dataset("tunes")
    assert isinstance(row, MidiRow)
    assert (row.path, row.steps, row.notation, row.licence) == ("raw", 2, "grid", "CC0")
    check_product(where, "tunes")
    for name in ("tunes-gpt", "tunes-lstm"):
        check_run(where, name, where.run(name))
    said = genloom("data", "prepare", "tunes")
    assert said.code == 0, said.err
    shown = json.loads(genloom("data", "show", "tunes", "--json").out)
    assert (shown["read"], shown["kept"], shown["shape"]) == (41, 40, [512])
    assert "pieces, " in genloom("data", "show", "tunes").out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--notation", "neumes"), "--notation is “neumes”; take grid or events."),
        (("--steps", 99), "--steps is 99; take steps a quarter from 1 to 24."),
        (("--size", "8"), "holds music; leave out --size."),
        (("--by-class",), "--by-class is for pictures with classes alone"),
        (("--notation", "grid", "--context", 4), "--context is 4; take a number from 8"),
    ],
)
def test_wrong_options_are_told(
    project: Path, genloom: Genloom, options: tuple[Any, ...], sentence: str
) -> None:
    (project / "raw").mkdir()
    (project / "raw" / "a.mid").write_bytes(write_midi(piece(1)))
    before = (project / "params.yaml").read_text()
    one = genloom("data", "add", "tunes", "raw/a.mid")
    assert one.code == 2
    assert "a.mid is one piece; give the folder that holds your MIDI files." in one.err
    said = genloom("data", "add", "tunes", "raw", *options)
    assert said.code == 2
    assert sentence in said.err
    assert (project / "params.yaml").read_text() == before


def test_a_task_that_music_has_not_is_refused(project: Path) -> None:
    table = (project / "params.yaml").read_text()
    task = "    dataset: counterpoint\n    task: "
    (project / "params.yaml").write_text(table.replace(f"{task}prompt", f"{task}label"))
    with pytest.raises(
        UserError, match="music is drawn freely or goes on with what is given, and the task is label"
    ):
        check_product(open_project(project), "counterpoint")
