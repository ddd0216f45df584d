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


def named(text: str) -> Path:
    """The path that `-o` names; raises `UserError` for none, which would be the current folder."""
    if not text:
        raise UserError("-o names nothing; name a file or a folder, or . for the current one.")
    return Path(text)


Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Count = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--number",
        min=1,
        max=4096,
        help="How many, of texts at most 128; 16 pictures, futures or molecules, 1 recording, piece of music or text.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        parser=named,
        metavar="PATH",
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
    from flows.commands.ways import WAYS, Wanted

    project = open_project()
    project.product(product)
    given = {
        **{
            "prompt": prompt,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "stop": stop,
        },
        **{"size": size, "label": label, "steps": steps, "guidance": guidance, "truncation": truncation},
        **{"prime": prime, "bars": bars},
        **{"context": context, "horizon": horizon, "quantiles": quantiles, "channel": channel},
        **{"valid_only": valid_only or None, "contains": contains},
    }
    with locate(project.settings, product, version, project.own_terms(product)) as place:
        way = WAYS[place.modality]
        without(
            {name: given[name] for name in given if name not in way.options},
            f"{product} makes {place.makes}, without",
        )
        asked = {name: given[name] for name in given if name in way.options}
        way.make(place, Wanted(asked, number, seed, out, as_json))


def without(options: Mapping[str, Any], sentence: str) -> None:
    """Raise `UserError` for the first of `options` that is given."""
    for name, value in options.items():
        if value not in (None, []):
            raise UserError(f"{sentence} --{name.replace('_', '-')}; leave it out.")


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
