"""`genloom generate`: pictures, sound, music or text, by the running server or by the champion loaded here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from components import files
from components.errors import UserError
from flows.commands.show import AsJson

if TYPE_CHECKING:
    from components.serving.draw import Drawing
    from components.serving.place import Place

Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Count = Annotated[
    int | None,
    typer.Option(
        "-n", "--number", min=1, max=4096, help="How many; 16 pictures, 1 recording, piece of music or text."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="A .png for one picture or a grid, a .wav for sound, a .mid for music, a folder for single files; a file "
        "for text.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**63 - 1, help="Picture or text i has seed + i; the same seed gives the same."),
]
Size = Annotated[
    str | None, typer.Option(help="Of pictures, such as 64x64: a whole multiple of the model's own size.")
]
Which = Annotated[
    str | None,
    typer.Option(
        "--version", help="A number, champion or challenger; by default what is served, or the champion."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="The text that the model continues or turns into another; of pictures, a caption; of sound, words."
    ),
]
Label = Annotated[str | None, typer.Option(help="Of pictures and sound: the class, by name.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Of pictures by diffusion: how many steps.")]
Guidance = Annotated[
    float | None, typer.Option(help="Of pictures by diffusion: how much the class or caption weighs.")
]
Truncation = Annotated[
    float | None, typer.Option(help="Of pictures by a style GAN: below 1, likelier and less varied.")
]
Temperature = Annotated[
    float | None,
    typer.Option(help="Of text and music: 0 always takes the likeliest token, 1 draws as the model says."),
]
TopP = Annotated[
    float | None, typer.Option(help="Of text and music: draw from the likeliest tokens of this share.")
]
Tokens = Annotated[int | None, typer.Option(min=1, help="Of text: at most so many new tokens.")]
Stops = Annotated[list[str] | None, typer.Option("--stop", help="Of text: end before this; may be repeated.")]

Prime = Annotated[
    Path | None, typer.Option(help="Of music: a MIDI file that each piece begins with and goes on from.")
]
Bars = Annotated[int | None, typer.Option(min=1, help="Of music: at most so many new bars.")]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("generate")(generate)


def generate(
    product: Product,
    number: Count = None,
    out: Out = None,
    seed: Seed = None,
    size: Size = None,
    version: Which = None,
    prompt: Prompt = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: Tokens = None,
    stop: Stops = None,
    label: Label = None,
    steps: Steps = None,
    guidance: Guidance = None,
    truncation: Truncation = None,
    prime: Prime = None,
    bars: Bars = None,
    as_json: AsJson = False,
) -> None:
    """Draw with a product's model and write PNG, WAV or MIDI files, or write with it to the terminal as the text comes.

    Beside each MIDI file lie the same piece as WAV and its piano roll as PNG.
    """
    from components.project import open_project
    from components.serving.place import locate

    project = open_project()
    project.product(product)
    text = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop}
    options = {"steps": steps, "guidance": guidance, "truncation": truncation}
    pictures = {"size": size, "label": label, **options}
    music = {"prime": prime, "bars": bars}
    with locate(project.settings, product, version, project.own_terms(product)) as place:
        if place.modality != "music":
            _without(music, f"{product} makes no music: go on without")
        if place.modality == "text":
            _without(pictures, f"{product} writes text, without")
            _write(place, {**text, "prompt": prompt, "n": number or 1}, seed, out, as_json)
        elif place.modality == "audio":
            _without({**text, **pictures, "label": None, "guidance": None}, f"{product} makes sound, without")
            _sound(place, number, seed, out or Path("out.wav"), prompt, label, guidance, as_json)
        elif place.modality == "music":
            _without(
                {**pictures, "prompt": prompt, "max_tokens": max_tokens, "stop": stop},
                f"{product} makes music, without",
            )
            how = {"temperature": temperature, "top_p": top_p, "bars": bars}
            _compose(place, number or 1, seed, out or Path("out.mid"), prime, how, as_json)
        else:
            _without(text, f"{product} draws pictures, without")
            asked = {**pictures, "prompt": prompt}
            _draw(place, number or 16, seed, asked, out or Path("out.png"), as_json)


def _without(options: Mapping[str, Any], sentence: str) -> None:
    """Raise `UserError` for the first of `options` that is given."""
    for name, value in options.items():
        if value not in (None, []):
            raise UserError(f"{sentence} --{name.replace('_', '-')}; leave it out.")


def _draw(
    place: Place, number: int, seed: int | None, asked: Mapping[str, Any], out: Path, as_json: bool
) -> None:
    from components.serving import draw

    target = draw.check_target(out)
    drawn = draw.draw(place, number, seed, asked)
    say_drawn(drawn, draw.write(target, drawn), as_json)


def _sound(
    place: Place,
    number: int | None,
    seed: int | None,
    out: Path,
    prompt: str | None,
    label: str | None,
    guidance: float | None,
    as_json: bool,
) -> None:
    from components.serving import draw, sound

    if prompt is None:
        target = draw.check_target(out, (".wav",), "recordings")
        made = sound.record(place, number or 1, seed, {"label": label, "guidance": guidance})
    else:
        _without({"label": label, "number": number}, "With --prompt all words are in one file, without")
        target = draw.check_target(out, sound.KINDS, "recordings")
        made = sound.speak(place, prompt, seed, sound.target_kind(target), guidance)
    say_drawn(made, draw.write(target, made, joined=sound.joined), as_json)


def _compose(
    place: Place,
    number: int,
    seed: int | None,
    out: Path,
    prime: Path | None,
    asked: Mapping[str, Any],
    as_json: bool,
) -> None:
    from components.serving import compose

    target = compose.check_target(out, number)
    drawn = compose.compose(place, number, seed, asked, prime)
    say_drawn(drawn, compose.write(place, target, drawn, prime), as_json)


def say_drawn(drawn: Drawing, written: Sequence[Path], as_json: bool) -> None:
    """Say what was drawn into which files, for a person or, with every seed and class, for a program.

    What the content filter withheld is said beside, on stderr.
    """
    if drawn.withheld:
        from components.serving.draw import held_back

        typer.echo(f"{held_back(drawn.product, drawn.withheld, len(drawn.files), drawn.what)}.", err=True)
    if as_json:
        content = {
            "product": drawn.product,
            "version": drawn.version,
            "seed": drawn.seed,
            "seeds": drawn.seeds,
            "labels": drawn.labels,
            "files": [str(path) for path in written],
            "withheld": [{"seed": seed, "reason": reason} for seed, reason in drawn.withheld.items()],
            "where": drawn.where,
        }
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    where = str(written[0]) if len(written) == 1 else f"{len(written)} files in {written[0].parent}"
    typer.echo(f"{drawn.product}/{drawn.version} drew {where} with seed {drawn.seed}, {drawn.where}.")


def _write(place: Place, asked: dict[str, Any], seed: int | None, out: Path | None, as_json: bool) -> None:
    import secrets

    from components.labels.formats import TEXT
    from components.labels.marker import lay_beside
    from components.serving import speak

    first = secrets.randbelow(2**52) if seed is None else seed
    body = speak.body_of({"model": place.asked, "seed": first, **asked})
    with open_file(out) as stream:
        if as_json:
            print(json.dumps(speak.whole(place, body), ensure_ascii=False, indent=2), file=stream)
        elif asked["n"] == 1:
            for piece in speak.speak(place, body):
                print(piece.text, end="", file=stream, flush=True)
            print(file=stream)
        else:
            said = [""] * asked["n"]
            for piece in speak.speak(place, body):
                said[piece.row] += piece.text
            for row, text in enumerate(said):
                print(f"── {first + row} ──\n{text}\n", file=stream)
    if out is not None and not as_json:
        lay_beside(place.marker, out, TEXT, first)
    written = "" if out is None else f" {out}"
    typer.echo(f"{place.product}/{place.version} wrote{written} with seed {first}, {place.where}.", err=True)


@contextmanager
def open_file(out: Path | None) -> Iterator[TextIO]:
    """The file to write text to, by default the terminal; it is replaced when all is there. Raises `UserError`."""
    if out is None:
        yield sys.stdout
        return
    try:
        with files.draft(out) as draft, draft.open("w", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another file with -o.") from error
