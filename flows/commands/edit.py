"""`genloom edit`: pictures that a product's model repairs, fills, enlarges, colours, restyles or varies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import UserError
from flows.commands.generate import Label, Product, Seed, Size, Steps, Which, named, say_drawn
from flows.commands.show import AsJson

if TYPE_CHECKING:
    from components.serving.place import Place

Pictures = Annotated[list[Path], typer.Argument(help="One picture or several.", show_default=False)]
Mask = Annotated[
    Path | None,
    typer.Option("--mask", help="A PNG of the picture's size, transparent where it is to be filled."),
]
Count = Annotated[
    int, typer.Option("-n", "--number", min=1, max=128, help="How many answers to each picture.")
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        parser=named,
        metavar="PATH",
        help="A .png for one picture or a grid; a folder for several.",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(help="Of variations: 0 is the picture itself, 1 forgets it.", min=0, max=1),
]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("edit")(edit)


def edit(
    product: Product,
    pictures: Pictures,
    out: Out = Path("out.png"),
    mask: Mask = None,
    number: Count = 1,
    seed: Seed = None,
    size: Size = None,
    strength: Strength = None,
    label: Label = None,
    steps: Steps = None,
    version: Which = None,
    as_json: AsJson = False,
) -> None:
    """Turn pictures into others with a product's model, or draw variations of them where it is one that draws."""
    from components.project import open_project
    from components.serving import draw
    from components.serving.place import locate

    project = open_project()
    project.product(product)
    target = draw.check_target(out)
    if len(pictures) > 1 and not target.folder:
        raise UserError(f"{out} is one file and there are {len(pictures)} pictures; name a folder with -o.")
    if len({path.stem for path in pictures}) < len(pictures):
        raise UserError("Two of the pictures have the same name, so one would replace the other; rename one.")
    given = [*pictures, *([mask] if mask else [])]
    # what a single answer to each is called is known before it is drawn
    named = [target.path / f"{path.stem}.png" for path in pictures if number == 1]
    draw.check_apart(named if target.folder else [target.path], given)
    asked = {"mask": mask, "size": size, "strength": strength, "label": label, "steps": steps}
    with locate(project.settings, product, version, project.own_terms(product)) as place:
        check(place)
        drawn = draw.edit(place, pictures, number, seed, asked)
        say_drawn(drawn, draw.write(target, drawn, given), as_json)


def check(place: Place) -> None:
    """Raise `UserError` unless the model at `place` takes pictures."""
    if place.modality != "image":
        raise UserError(
            f"{place.product} makes {place.makes} and edits no pictures; ask it with genloom generate."
        )
    if place.about["routes"] == ["/v1/images/generations"]:
        raise UserError(
            f"{place.product} draws anew and has no way back from a picture; ask it with genloom generate "
            f"{place.product}."
        )
