"""`genloom ops`: backup, restore, garbage collection and migration of a project's state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.show import AsJson, facts, listing

if TYPE_CHECKING:
    from components.ops.backup import Size
    from components.ops.garbage import Garbage
    from components.ops.migrate import Step

Target = Annotated[
    Path,
    typer.Argument(
        help="A folder of backups, which share what did not change, or a file *.tar or *.tar.gz.",
        show_default=False,
    ),
]
Source = Annotated[
    Path, typer.Argument(help="What genloom ops backup wrote: the folder, or the file.", show_default=False)
]
Without = Annotated[
    list[str] | None, typer.Option("--without", help="A part to leave out, such as records; may be repeated.")
]
With = Annotated[
    list[str] | None, typer.Option("--with", help="A part to take in, such as checkpoints; may be repeated.")
]
KeepBackups = Annotated[
    int | None,
    typer.Option(
        "--keep", min=1, help="Remove all but the newest so many of the folder.", show_default=False
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", help="One of the folder's backups; by default the newest.", show_default=False),
]
Over = Annotated[bool, typer.Option("--over", help="Where there is state already, set it aside.")]
Check = Annotated[bool, typer.Option("--check", help="Only see whether the backup is whole.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; without, it is only said what can go.")]
Older = Annotated[str, typer.Option("--older-than", help="What was not changed for so long: 12h, 30d.")]
Keep = Annotated[int, typer.Option("--keep", min=1, help="The newest trainings of each run that stay whole.")]
Kind = Annotated[
    list[str] | None,
    typer.Option(
        "--only", help="A kind of garbage, such as checkpoints; may be repeated.", show_default=False
    ),
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    ops = typer.Typer(
        no_args_is_help=True, help="Backup, restore, garbage and migration of the project's state."
    )
    ops.command("backup")(backup)
    ops.command("restore")(restore)
    ops.command("gc")(gc)
    ops.command("migrate")(migrate)
    app.add_typer(ops, name="ops")


def backup(
    target: Target,
    without: Without = None,
    with_: With = None,
    keep: KeepBackups = None,
    as_json: AsJson = False,
) -> None:
    """Copy the project's state, while training and serving go on; a folder takes in only what is new."""
    from components.ops.backup import back_up, parts_of
    from components.ops.store import is_tar
    from components.project import open_project
    from flows.progress import say

    project = open_project()
    parts = parts_of(without or (), with_ or ())
    if keep and is_tar(target):
        raise UserError(f"{target} is one backup; --keep is for a folder of them.")

    def said(size: Size) -> None:
        say(f"{size.files:,} files, {human(size.bytes)}; {human(size.new)} of them are new.")

    with _bar("copying") as show:
        made = back_up(project, target, parts, keep, said, show)
    snapshot = made.snapshot
    if as_json:
        content = snapshot.model_dump(mode="json", exclude={"files"})
        facts({"target": str(target.resolve()), **content, **_sums(made.copied, made.freed)}, True)
        return
    lines = [
        f"The backup {snapshot.name} is in {target}: {human(snapshot.size)}, {human(made.copied)} copied."
    ]
    lines += [f"{human(made.freed)} of older backups were removed."] if made.freed else []
    lines += [f"Not in it: {sentence}." for sentence in snapshot.without]
    typer.echo("\n".join(lines))


def restore(
    source: Source, at: At = None, over: Over = False, check: Check = False, as_json: AsJson = False
) -> None:
    """Make a backup the project's state; it is checked first, and what is there already is never deleted."""
    from components.ops import restore as restoring
    from components.project import find_root
    from components.settings import read_settings

    try:
        root = find_root()
    except UserError:  # the backup has a params.yaml
        root = Path.cwd()
    settings = read_settings(root)
    with _bar("checking") as show:
        if check:
            snapshot = restoring.check(source, at, show)
            done: dict[str, Any] = {}
        else:
            restored = restoring.restore(root, settings, source, at, over, show)
            snapshot = restored.snapshot
            done = {
                "home": str(restored.home),
                "set_aside": [str(path) for path in restored.set_aside],
                "stayed": list(restored.stayed),
                "ledgers": dict(restored.ledgers),
                "withdrawn": list(restored.withdrawn),
                "purged": list(restored.purged),
                "kept_key": None if restored.key is None else str(restored.key),
            }
    about = {"name": snapshot.name, "created": snapshot.created, "parts": list(snapshot.parts)}
    if as_json:
        facts({**about, "files": len(snapshot.files), "bytes": snapshot.size, "whole": True, **done}, True)
        return
    typer.echo(f"The backup {snapshot.name} is whole: {len(snapshot.files):,} files, {human(snapshot.size)}.")
    if not check:
        _tell_restored(done, snapshot.parts)


def _tell_restored(done: dict[str, Any], parts: Sequence[str]) -> None:
    typer.echo(f"It is the state of the project now, in {done['home']}.")
    for product, lines in done["ledgers"].items():
        typer.echo(f"{product}: {lines} lines in the ledger, which agrees with the registry.")
    for name in done["withdrawn"]:
        again = f"genloom models withdraw {name} --reason “…” --purge deletes its weights again"
        typer.echo(
            f"{name} was withdrawn after this backup was made and stays withdrawn"
            + (f"; {again}." if name in done["purged"] else ".")
        )
    if done["kept_key"]:
        typer.echo(
            f"The backup was made without the key that signs labels; {done['kept_key']}, which was here before, stays "
            "and signs; genloom labels init --replace makes another."
        )
    for path in done["set_aside"]:
        typer.echo(f"What was there before is {path}; delete it when you do not need it any more.")
    for name in done["stayed"]:
        typer.echo(f"{name} differs from the backup's and stays; --over takes the backup's.")
    if "tls" in parts:
        typer.echo(
            f"The certificate and its key are in {done['home']}/tls; GENLOOM_TLS_CERT and …_KEY name them."
        )
    if "data" not in parts:
        typer.echo("Prepared data are not in it: genloom data prepare NAME makes them again.")


def gc(
    yes: Yes = False,
    older_than: Older = "30d",
    keep: Keep = 3,
    only: Kind = None,
    as_json: AsJson = False,
) -> None:
    """Say what nobody needs any more and how much it frees; with --yes remove it. Trainings and servers go on."""
    from components.cron import read_every
    from components.ops.gc import collect, find
    from components.project import open_project
    from flows.progress import Bars

    try:
        age = read_every(older_than)
    except ValueError as error:
        raise UserError(f"--older-than is {older_than!r}: {error}.") from error
    project = open_project()
    found = find(project, age, keep, only or ())
    if not yes:
        _tell_found(found, as_json)
        return
    with Bars() as bars:
        done = collect(project, found, lambda count, total: bars("removing", count, total))
    if as_json:
        rows = {"removed": [_row(one) for one in done.removed], "stayed": [_row(one) for one in done.stayed]}
        facts({**rows, "freed": done.freed}, True)
        return
    typer.echo(f"Removed: {len(done.removed)}, which frees {human(done.freed)}.")
    for one in done.stayed:
        typer.echo(f"{one.kind} {one.name} is used just now and stays.")


def _tell_found(found: Sequence[Garbage], as_json: bool) -> None:
    rows = [_row(one) for one in found]
    if as_json:
        facts({"found": rows, "bytes": sum(one.size for one in found)}, True)
        return
    shown = [{**row, "bytes": human(row["bytes"]), "changed": row["changed"][:10]} for row in rows]
    listing(shown, False, "There is nothing that nobody needs; --older-than and --keep say what is needed.")
    if found:
        total = human(sum(one.size for one in found))
        typer.echo(f"{len(found)} things, {total}; genloom ops gc --yes with the same options removes them.")


def _row(one: Garbage) -> dict[str, Any]:
    changed = datetime.fromtimestamp(one.changed, UTC).isoformat(timespec="seconds")
    return {"kind": one.kind, "name": one.name, "bytes": one.size, "changed": changed, "why": one.why}


def migrate(dry: Dry = False, as_json: AsJson = False) -> None:
    """Bring the home of an earlier release up to this one; the databases are copied before."""
    from components.ops import migrate as migrating
    from components.project import open_project
    from flows.progress import say

    settings = open_project().settings
    if dry:
        listing([_step(step) for step in migrating.pending(settings)], as_json, NOTHING)
        return
    done = migrating.migrate(settings, lambda step: say(f"{step.name}: {step.found} → {step.wanted}"))
    if as_json:
        typer.echo(
            json.dumps(
                {"done": [_step(step) for step in done.steps], "kept": done.kept}, default=str, indent=2
            )
        )
        return
    typer.echo(f"Up to date; done: {', '.join(step.name for step in done.steps)}." if done.steps else NOTHING)
    if done.kept is not None:
        typer.echo(f"The databases as they were: {done.kept}; delete them when all is well.")


NOTHING = "Everything is up to date."


def _step(step: Step) -> dict[str, Any]:
    return {"what": step.name, "found": step.found, "wanted": step.wanted, "file": str(step.file)}


def _sums(copied: int, freed: int) -> dict[str, int]:
    return {"copied": copied, "freed": freed}


def human(size: int) -> str:
    """Bytes for a person."""
    if size < 2**20:
        return f"{size / 2**10:.1f} KiB"
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.2f} GiB"


def _bar(what: str) -> Any:
    from flows.progress import byte_bar

    return byte_bar(what)
