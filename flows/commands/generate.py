"""`genloom generate`: whatever a product's model makes, by the running server or by the champion loaded here."""

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
        "-n",
        "--number",
        min=1,
        max=4096,
        help="How many; 16 pictures, futures or molecules, 1 recording, piece of music or text.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="A .png for one picture or a grid, a .wav for sound, a .mid for music, a folder for single files; a file "
        "for text; a .csv or .json for series, a .smi, .csv or .sdf for molecules, with a picture beside.",
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
        help="The text that the model continues or turns into another; of pictures, a caption; of sound, words; "
        "of molecules, what each SMILES begins with."
    ),
]
Label = Annotated[
    str | None, typer.Option(help="Of pictures and sound: the class, by name; of molecules: the band.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Of pictures by diffusion: how many steps.")]
Guidance = Annotated[
    float | None, typer.Option(help="Of pictures by diffusion: how much the class or caption weighs.")
]
Truncation = Annotated[
    float | None, typer.Option(help="Of pictures by a style GAN: below 1, likelier and less varied.")
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Of tokens, and of sound by a WaveNet: 0 always takes the likeliest, 1 draws as the model says."
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(help="Of text, music and molecules: draw from the likeliest tokens of this share."),
]
Tokens = Annotated[int | None, typer.Option(min=1, help="Of text: at most so many new tokens.")]
Context = Annotated[
    Path | None,
    typer.Option(
        help="Of series: a CSV, Parquet or JSON file with what came before; windows are drawn without one."
    ),
]
Horizon = Annotated[int | None, typer.Option(min=1, help="Of series: how many steps ahead.")]
Quantiles = Annotated[
    str | None, typer.Option(help="Of series: such as 0.1,0.5,0.9, which are written beside the futures.")
]
OneChannel = Annotated[
    str | None,
    typer.Option("--channel", help="Of series: the model's channel that the context is, or is drawn."),
]
Stops = Annotated[list[str] | None, typer.Option("--stop", help="Of text: end before this; may be repeated.")]
ValidOnly = Annotated[
    bool, typer.Option("--valid-only", help="Of molecules: draw again in the place of what is none.")
]
Contains = Annotated[
    str | None, typer.Option(help="Of molecules: keep those with this fragment (SMILES or SMARTS).")
]

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
    context: Context = None,
    horizon: Horizon = None,
    quantiles: Quantiles = None,
    channel: OneChannel = None,
    valid_only: ValidOnly = False,
    contains: Contains = None,
    as_json: AsJson = False,
) -> None:
    """Draw with a product's model: PNG, WAV, MIDI, CSV or SMILES; text is written to the terminal as it comes.

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
    series = {"context": context, "horizon": horizon, "quantiles": quantiles, "channel": channel}
    molecules = {"valid_only": valid_only or None, "contains": contains}
    with locate(project.settings, product, version, project.own_terms(product)) as place:
        if place.modality != "music":
            _without(music, f"{product} makes no music: go on without")
        if place.modality != "series":
            _without(series, f"{product} makes {_MADE.get(place.modality, place.modality)}, without")
        if place.modality != "molecule":
            _without(molecules, f"{product} writes no molecules, without")
        if place.modality == "series":
            others = {**pictures, **text, "temperature": None, "prompt": prompt}
            _without(others, f"{product} makes series, without")
            asked = {"n": number or 16, "seed": seed, "temperature": temperature, **series}
            _forecast(place, asked, out or Path("out.csv"), as_json)
            return
        if place.modality == "molecule":
            others = {**pictures, "label": None, "max_tokens": max_tokens, "stop": stop}
            _without(others, f"{product} writes molecules, without")
            how = {"prefix": prompt, "label": label, "temperature": temperature, "top_p": top_p}
            _design(place, number or 16, seed, {**how, **molecules}, out or Path("out.smi"), as_json)
            return
        if place.modality == "text":
            _without(pictures, f"{product} writes text, without")
            _write(place, {**text, "prompt": prompt, "n": number or 1}, seed, out, as_json)
        elif place.modality == "audio":
            asked = {"label": label, "guidance": guidance, "temperature": temperature}
            others = {name: value for name, value in {**text, **pictures}.items() if name not in asked}
            _without(others, f"{product} makes sound, without")
            _sound(place, number, seed, out or Path("out.wav"), prompt, asked, as_json)
        elif place.modality == "music":
            _without(
                {**pictures, "prompt": prompt, "max_tokens": max_tokens, "stop": stop},
                f"{product} makes music, without",
            )
            how = {"temperature": temperature, "top_p": top_p, "bars": bars}
            _compose(place, number or 1, seed, out or Path("out.mid"), prime, how, as_json)
        else:
            _without(text, f"{product} draws pictures, without")
            _draw(place, number or 16, seed, {**pictures, "prompt": prompt}, out or Path("out.png"), as_json)


_MADE = {"text": "text", "audio": "sound", "image": "pictures"}


def _forecast(place: Place, asked: dict[str, Any], out: Path, as_json: bool) -> None:
    from components.serving import draw, forecast

    if draw.check_target(out, forecast.KINDS, "series").folder:
        raise UserError(f"{out} is a folder; name a file such as {out / 'out.csv'}.")
    context, levels = asked.pop("context"), asked.pop("quantiles")
    if context is not None and context.resolve() in (out.resolve(), out.with_suffix(".png").resolve()):
        raise UserError(
            f"The answer would take the place of {context}, which was given; write elsewhere with -o."
        )
    found = forecast.forecast(place, context, {**asked, "quantiles": _levels(levels)})
    written = forecast.written(place, found, out)
    if found.withheld:
        typer.echo(
            f"The content filter of {place.product} withheld {found.withheld} of {asked['n']}.", err=True
        )
    what = "windows" if context is None else "futures"
    if as_json:
        said = {"product": place.product, "version": place.version, "seed": found.seed, "where": place.where}
        print(json.dumps({**said, "files": [str(path) for path in written]}, ensure_ascii=False, indent=2))
        return
    filled = found.content.get("filled", 0)
    typer.echo(
        f"{place.product}/{place.version} drew {asked['n']} {what} into {written[0]} and {written[1]} with seed "
        f"{found.seed}, {place.where}."
        + (f" {filled} missing values of the context were interpolated." if filled else "")
    )


def _levels(text: str | None) -> list[float] | None:
    """The numbers of `0.1,0.5,0.9`. Raises `UserError`."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--quantiles is “{text}”; write numbers between 0 and 1, such as 0.1,0.5,0.9."
        ) from error


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
    asked: Mapping[str, Any],
    as_json: bool,
) -> None:
    from components.serving import draw, sound

    if prompt is None:
        target = draw.check_target(out, (".wav",), "recordings")
        made = sound.record(place, number or 1, seed, asked)
    else:
        options = {name: value for name, value in asked.items() if name != "label"}
        _without(
            {"label": asked["label"], "number": number}, "With --prompt all words are in one file, without"
        )
        target = draw.check_target(out, sound.KINDS, "recordings")
        made = sound.speak(place, prompt, seed, sound.target_kind(target), options)
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


def _design(
    place: Place, number: int, seed: int | None, asked: Mapping[str, Any], out: Path, as_json: bool
) -> None:
    from components.serving import draw
    from components.serving import molecules as designs

    draw.check_target(out, designs.KINDS, "molecules", folders=False)
    made = designs.design(place, number, seed, asked)
    written = designs.write(out, made)
    shown = made.shown
    valid = sum(bool(one["valid"]) for one in shown)
    if as_json:
        content = {
            "product": place.product,
            "version": place.version,
            "seed": made.seed,
            "drawn": made.drawn,
            "valid": valid,
            "molecules": list(made.found),
            "files": [str(path) for path in written],
            "where": place.where,
        }
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    said = f"{len(shown)} molecules, {valid} valid, of {made.drawn} that were drawn"
    if len(made.found) < number:
        said += f" ({number} were wanted)"
    places = " and ".join(map(str, written))
    typer.echo(
        f"{place.product}/{place.version} wrote {places} with seed {made.seed}, {place.where}: {said}."
    )


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
