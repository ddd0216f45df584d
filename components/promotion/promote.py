"""Promotion and rollback: the gate's verdict becomes a line in the ledger, then the alias follows, under a lock."""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import FailedError, UserError
from components.project import ProductRow
from components.promotion import ledger, revocation
from components.promotion.gate import Verdict, decide
from components.promotion.ledger import Entry, Event, Line, Standing
from components.promotion.registry import Registry
from components.promotion.revocation import data_name
from components.promotion.version import CHALLENGER, CHAMPION, Version, parents
from components.settings import Settings

FORCED = "it is promoted only by --force."


@dataclass(frozen=True)
class Decision:
    """What became of a request to promote or roll back: `previous` is the number of the champion before."""

    product: str
    version: int
    accepted: bool
    reasons: tuple[str, ...]
    previous: int | None

    @property
    def name(self) -> str:
        """The version that was decided about, such as digits/3."""
        return f"{self.product}/{self.version}"

    @property
    def idle(self) -> bool:
        """Whether there was nothing to decide, because the version was champion already."""
        return not self.accepted and self.version == self.previous


def promote(
    settings: Settings,
    product_name: str,
    product_row: ProductRow,
    which: str | int = CHALLENGER,
    force: bool = False,
    why: str = "",
    flow_run: str = "",
) -> Decision:
    """Let the gate judge a version; if it accepts, or `force` overrules it, the version becomes champion.

    A refusal is written to the ledger as well, once. A version that a rollback left is refused until someone
    forces it; one that was withdrawn, or that nobody has approved where the product asks for that, is not to be
    forced. Safe to repeat: what a crash interrupted is mended first. Raises `UserError`.
    """
    registry = Registry(settings)
    with ledger.locked(settings, product_name):
        lines = settle(registry, product_name)
        standing = ledger.standing(lines)
        version = registry.version(product_name, which)
        before = standing.champion
        if version.number == before:
            return Decision(product_name, before, False, (f"{version.name} is already champion.",), before)
        accepted, reasons = allowed(registry, version, product_row, lines, force, "promoted it")
        event: Event = "promote" if accepted else "refuse"
        entry = entry_of(event, version, before, reasons, why, flow_run)
        if accepted:
            registry.fetch(version)  # what cannot be fetched whole must not become champion
        if accepted or not _repeated(lines, entry):
            record(registry, entry)
        return Decision(product_name, version.number, accepted, reasons, before)


def rollback(
    settings: Settings, product_name: str, to: int | None = None, why: str = "", leaving: str | None = None
) -> Decision:
    """Make the champion before the present one, or `to`, champion again; it must have been champion once.

    With `leaving`, the hash of a ledger line, nothing is changed unless that is the last move. The version that is
    left is refused by the gate from then on. Raises `UserError` if there is none to go to.
    """
    registry = Registry(settings)
    with ledger.locked(settings, product_name):
        lines = settle(registry, product_name)
        standing = ledger.standing(lines)
        if leaving is not None and standing.champion is not None and ledger.last_move(lines) != leaving:
            said = "The champion has moved since."
            return Decision(product_name, standing.champion, True, (said,), standing.champion)
        number = _target(product_name, standing, to)
        version = registry.version(product_name, number)
        if number == standing.champion:
            return Decision(product_name, number, True, (f"{version.name} is champion already.",), number)
        registry.fetch(version)
        before = standing.champion
        left = "There was no champion" if before is None else f"{product_name}/{before} gave way"
        reasons = (f"{left}; {version.name} was champion before.",)
        record(registry, entry_of("rollback", version, before, reasons, why, ""))
        return Decision(product_name, number, True, reasons, before)


def champion(settings: Settings, product: str) -> Version | None:
    """The present champion by the ledger, or None; MLflow's alias is mended if it says something else."""
    registry = Registry(settings)
    if not ledger.path_of(settings, product).is_file() and product not in registry.products():
        return None
    with ledger.locked(settings, product):
        standing = ledger.standing(settle(registry, product))
    return registry.version(product, CHAMPION) if standing.champions else None


def verify(settings: Settings, product: str) -> int:
    """Check the product's ledger and that it holds the line that the registry saw last; the number of lines.

    Raises `FailedError` that names what is broken.
    """
    count = ledger.verify(ledger.path_of(settings, product))
    registry = Registry(settings)
    if product in registry.products():
        _known(registry, product, ledger.read(ledger.path_of(settings, product)))
    return count


def settle(registry: Registry, product: str) -> list[Line]:
    """The ledger's lines, checked, with MLflow's alias brought to what they say; the caller holds the lock."""
    lines = ledger.read(ledger.path_of(registry.settings, product))
    _known(registry, product, lines)
    standing = ledger.standing(lines)
    if standing.champions:
        registry.version(product, CHAMPION)  # raises if the registry does not hold what the ledger means
    registry.agree(product, standing, lines[-1].hash if lines else "")
    return lines


def record(registry: Registry, entry: Entry) -> None:
    """First the ledger, then the alias: a crash between the two is mended by the next `settle`."""
    path = ledger.path_of(registry.settings, entry.product)
    line = ledger.append(path, entry)
    registry.agree(entry.product, ledger.standing(ledger.read(path)), line.hash)


def entry_of(
    event: Event, version: Version, before: int | None, reasons: tuple[str, ...], why: str, flow_run: str = ""
) -> Entry:
    """What is written about `version`, by the user of this process."""
    return Entry(
        event=event,
        product=version.product,
        version=version.number,
        digest=version.digest,
        champion=before,
        reasons=reasons,
        who=ledger.who(),
        why=why,
        flow_run=flow_run,
    )


def _known(registry: Registry, product: str, lines: list[Line]) -> None:
    """Raise `FailedError` if the ledger lacks the line that the registry saw last: its end was cut off."""
    head = registry.ledger_head(product)
    if head and head not in {line.hash for line in lines}:
        path = ledger.path_of(registry.settings, product)
        raise FailedError(
            f"The ledger {path} lacks the line {head[:12]} that the registry has seen; lines were removed: "
            "restore the file from a backup."
        )


def allowed(
    registry: Registry, version: Version, row: ProductRow, lines: list[Line], force: bool, done: str
) -> tuple[bool, tuple[str, ...]]:
    """Whether a version may answer, and why: by the gate, by the ledger, or by `force`, of which `done` is said."""
    standing = ledger.standing(lines)
    if barrier := _barrier(version, row, standing):
        return False, (barrier,)
    verdict = _judged(registry, version, row, lines, standing)
    if force and not verdict.accepted:
        return True, (*verdict.reasons, f"{ledger.who()} {done} all the same (--force).")
    return verdict.accepted, verdict.reasons


def _barrier(version: Version, row: ProductRow, standing: Standing) -> str:
    """What no force overrules; nothing if there is nothing of it."""
    if (line := standing.revoked.get(version.number)) is not None:
        lifted = "it returns only by genloom models restore"
        return f"{revocation.told(line)}; {lifted if revocation.back(line, standing) else 'its weights were purged'}."
    if row.approval != "required":
        return ""
    approved = standing.approved.get(version.number)
    ask = f"somebody else must look at it and type genloom models approve {version.name} --by NAME"
    if approved is None:
        return (
            f"The product {version.product} needs an approval, and {version.name} has none on record; {ask}."
        )
    if approved.by.casefold() == ledger.who().casefold():
        return f"{version.name} was approved by {approved.by}, who may not promote it as well; {ask}."
    return ""


def _judged(
    registry: Registry, version: Version, row: ProductRow, lines: list[Line], standing: Standing
) -> Verdict:
    """The gate's verdict, and the ledger's: nothing that was rolled back or withdrawn comes back by itself."""
    before = registry.version(version.product, CHAMPION) if standing.champions else None
    verdict = decide(registry.report(version), registry.report(before) if before else None, row)
    found = (_left(version, lines, standing), _tainted(registry, version, standing))
    reasons = tuple(reason for reason in found if reason)
    return Verdict(False, (*reasons, *verdict.reasons), verdict.primary) if reasons else verdict


def _tainted(registry: Registry, version: Version, standing: Standing) -> str:
    """Why a version is as one that was withdrawn: made from it, by the same training, or of the same data."""
    for parent in sorted(parents(version)):
        product, _, digits = parent.partition("/")
        line = revocation.standing_of(registry.settings, product).revoked.get(int(digits))
        if line is not None:
            return f"{version.name} was made from {parent}, and {revocation.told(line)}; {FORCED}"
    line = revocation.barred(registry.settings).get(data_name(version.dataset, version.revision))
    if line is not None:
        return (
            f"{version.name} was trained on {version.dataset} at revision {version.revision[:12]}, for which "
            f"{revocation.told(line)}; {FORCED}"
        )
    for number, line in standing.revoked.items():
        if registry.version(version.product, number).key == version.key:
            return (
                f"{version.name} was trained just as {version.product}/{number} was, and {revocation.told(line)}; "
                f"{FORCED}"
            )
    return ""


def _left(version: Version, lines: list[Line], standing: Standing) -> str:
    """Why a version comes back by force only; nothing if it does not."""
    name = version.name
    if version.number in standing.rolled_back:
        why = standing.rolled_back[version.number].why
        said = f" ({why})" if why else ""
        back = f"--force or a rollback --to {version.number}"
        return f"{name} was left by a rollback{said}; it returns only by {back}."
    if version.number in standing.withdrawn:
        last = next(
            line for line in reversed(lines) if (line.event, line.version) == ("withdraw", version.number)
        )
        said = " ".join(last.reasons)
        return f"{name} was withdrawn when it was tried ({said.rstrip('.')}); it returns only by --force."
    return ""


def _repeated(lines: list[Line], entry: Entry) -> bool:
    """Whether the last line says the same: a nightly run adds no line for what it was told the night before."""
    if not lines:
        return False
    last = lines[-1]
    return (last.event, last.version, last.champion, last.reasons) == (
        entry.event,
        entry.version,
        entry.champion,
        entry.reasons,
    )


def _target(product: str, standing: Standing, to: int | None) -> int:
    """Where a rollback goes."""
    if to is not None and to in standing.revoked:
        raise revocation.refusal(standing.revoked[to], standing)
    if standing.champion is None and (to is None or not standing.ever):
        raise UserError(f"The product {product} has no champion yet, so there is nothing to roll back.")
    if to is None:
        if len(standing.champions) < 2:
            raise UserError(
                f"{product}/{standing.champion} has no champion before it; name a version with --to, "
                "or promote another one."
            )
        return standing.champions[-2][0]
    if to not in standing.ever:
        known = ", ".join(str(number) for number in sorted(standing.ever))
        raise UserError(
            f"{product}/{to} was never champion (these were: {known}); promote it with "
            f"genloom promote {product} --version {to}."
        )
    return to
