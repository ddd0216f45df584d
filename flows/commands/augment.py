"""`genloom augment`: a labelled dataset of pictures that a product's model draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.errors import UserError
from flows.commands.generate import Guidance, Product, Seed, Size, Steps, Truncation, Which, named
from flows.progress import Bars

Each = Annotated[int, typer.Option("-n", "--number", min=1, max=1_000_000, help="Pictures of each class.")]
Folder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        parser=named,
        metavar="PATH",
        help="The folder, which genloom data add takes.",
        show_default=False,
    ),
]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("augment")(augment)


def augment(
    product: Product,
    out: Folder,
    number: Each = 100,
    seed: Seed = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    truncation: Truncation = None,
    version: Which = None,
) -> None:
    """Draw so many pictures of every class into class folders; typed again, it goes on from where it was."""
    from components.project import open_project
    from components.serving.augment import augment as fill
    from components.serving.place import locate

    project = open_project()
    project.product(product)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with -o.")
    options = {"size": size, "steps": steps, "guidance": guidance, "truncation": truncation}
    with locate(project.settings, product, version, project.own_terms(product)) as place:
        if place.modality != "image":
            raise UserError(f"{product} makes {place.makes}; genloom augment draws labelled pictures.")
        with Bars() as bars:
            done = fill(
                place,
                out,
                number,
                seed,
                options,
                lambda made, total: bars(f"{product} (pictures)", made, total),
            )
        typer.echo(
            f"{product}/{place.version} drew {done.made} new pictures, {done.each} of each of {len(done.classes)} "
            f"classes, in {out} with seed {done.seed}, {place.where}."
        )
        typer.echo(f"Next: genloom data add NAME {out}")
