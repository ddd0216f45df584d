"""`genloom models export`, `import` and `reproduce`: a version leaves, comes in, or is made once more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from components.errors import FailedError, UserError
from flows.commands.show import AsJson, facts

Reference = Annotated[
    str, typer.Argument(help="Such as digits/3, digits@champion, or digits.", show_default=False)
]

FORMS = ("hf", "genloom")
"""What a version can be written as."""


def attach_versions(models: typer.Typer) -> None:
    """Add the verbs to the noun `models`."""
    models.command("export")(export_model)
    models.command("import")(import_model)
    models.command("reproduce")(reproduce_model)


def export_model(
    reference: Reference,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; new or empty.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="hf: a GPT as transformers loads it; genloom: any version, for models import."
        ),
    ] = "hf",
) -> None:
    """Write a version as a folder: for another Genloom, or a GPT in Hugging Face's format with its tokenizer."""
    from components.project import open_project
    from components.promotion.registry import Registry

    if form not in FORMS:
        raise UserError(f"--format is “{form}”; there are: {' and '.join(FORMS)}.")
    settings = open_project().settings
    registry = Registry(settings)
    version = registry.named(reference)
    if form == "genloom":
        from components.promotion.parcel import pack

        print(f"Wrote {version.name} to {pack(settings, version, out)}")
        return
    from components.export import export_hf

    print(f"Wrote {version.name} to {export_hf(registry.fetch(version), out)}")


def import_model(
    folder: Annotated[
        Path,
        typer.Argument(help="What models export --format genloom wrote, or an artifact.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Register a version that was trained elsewhere, its hashes checked; it is promoted as any other."""
    from components.evaluation.project import evaluate_artifact
    from components.project import open_project
    from components.promotion.parcel import unpack
    from flows.progress import console

    project = open_project()

    def evaluate(product: str, artifact: Path) -> Path:
        place = project.settings.shared / "evaluations" / product / f"import-{artifact.name}"
        with console.status("evaluating") as status:
            evaluate_artifact(project, product, artifact, place, status.update)
        return place

    version, new = unpack(project.settings, folder, evaluate)
    if as_json:
        facts({"version": version.name, "new": new, "digest": version.digest, "origin": version.origin}, True)
        return
    typer.echo(f"{folder} is {version.name}{'' if new else ' already'}.")
    if version.product in project.tables.products:
        typer.echo(f"Next: genloom promote {version.product} --version {version.number}.")
    else:
        typer.echo(
            f"params.yaml has no product {version.product} yet; add one before it is promoted and served."
        )


def reproduce_model(
    reference: Reference,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train even if it was reproduced before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a version again from its lineage and compare the weights; exit code 1 if they are others."""
    from components.project import open_project
    from components.promotion.registry import Registry
    from components.train.reproduce import reproduce
    from flows.progress import training_bar

    project = open_project()
    version = Registry(project.settings).named(reference)
    with training_bar(f"reproduce {version.name}", int(version.parameters["train"]["steps"])) as show:
        found = reproduce(project, version, fresh, show)
    facts({**asdict(found), "same": found.same, "reasons": list(found.reasons)}, as_json)
    if not found.same:
        why = " ".join(found.reasons) or "Nothing that is on record has changed, so it should not be so."
        raise FailedError(
            f"{version.name} came out otherwise: its weights differ by up to {found.distance:.3g}. {why}"
        )
