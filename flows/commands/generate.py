"""`genloom generate`: pictures by the running server, or by the champion loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Count = Annotated[int, typer.Option("-n", "--number", min=1, max=4096, help="How many pictures.")]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="A .png for one picture or a grid; a folder for single files.")
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**63 - 1, help="Picture i has seed + i; the same seed draws the same."),
]
Size = Annotated[str, typer.Option(help="Such as 64x64: a whole multiple of the model's own size.")]
Which = Annotated[
    str | None,
    typer.Option(
        "--version", help="A number, champion or challenger; by default what is served, or the champion."
    ),
]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("generate")(generate)


def generate(
    product: Product,
    number: Count = 16,
    out: Out = Path("out.png"),
    seed: Seed = None,
    size: Size = "auto",
    version: Which = None,
) -> None:
    """Draw with a product's model and write PNG files."""
    from components.project import open_project
    from components.serving import draw

    project = open_project()
    project.product(product)
    target = draw.check_target(out)
    drawn = draw.draw(project.settings, product, number, seed, size, version)
    written = draw.write(target, drawn)
    typer.echo(f"{product}/{drawn.version} drew {written} with seed {drawn.seed}, {drawn.where}.")
