"""The verdict on a version that answers beside the champion: two tallies in; wait, promote or withdraw out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from components.promotion.tally import Tally, middle, ranked

HASTY, FINAL = 0.001, 0.05
"""The chance at which a sound version is withdrawn: at each of many early looks, and at the last one."""
KNOWN = 20
"""Answers of the champion before anything is compared with it."""
FLOOR = 0.005
"""Seconds by which an answer may always be later: what a busy machine adds to a fast one."""
MISHAPS = 3
"""Failures before an early look withdraws: against thousands of answers even a single one is no chance."""
PROBES = 3
"""Probes of the quality before anything is said about it."""
QUANTILES = (0.5, 0.95)


@dataclass(frozen=True)
class Criteria:
    """How a trial goes: `share` of the requests, decided after so many of them and so many `minutes`.

    It is withdrawn where its p50 or p95 is more than `slower` times the champion's, or the variety of what it
    generates less than `variety` times.
    """

    share: float = 0.1
    requests: int = 200
    minutes: float = 1.0
    slower: float = 1.5
    variety: float = 0.5

    def numbers(self) -> dict[str, float]:
        """As the ledger keeps them."""
        return asdict(self)


def criteria_of(numbers: Mapping[str, float]) -> Criteria:
    """What the ledger kept."""
    return Criteria(**{**numbers, "requests": int(numbers["requests"])})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Verdict:
    """What to do now, and why in one sentence."""

    what: Literal["wait", "promote", "withdraw"]
    reason: str


@dataclass(frozen=True)
class Names:
    """What the two sides are called, such as digits/1 and digits/2."""

    champion: str
    challenger: str


def decide(criteria: Criteria, champion: Tally, challenger: Tally, minutes: float, names: Names) -> Verdict:
    """What the two sides' tallies say after `minutes`.

    Every look before the last is a test of its own, so it takes overwhelming evidence to withdraw early; at the
    end the usual 5% do. Nothing is promoted before requests, minutes and probes are enough.
    """
    missing = _missing(criteria, champion, challenger, minutes, names)
    level = HASTY if missing else FINAL
    for fault in (
        _broken(challenger, names),
        _failing(champion, challenger, level, names),
        *(_slow(criteria, champion, challenger, level, share, names) for share in QUANTILES),
        _alike(criteria, champion, challenger, names),
    ):
        if fault:
            return Verdict("withdraw", fault)
    if missing:
        return Verdict("wait", missing)
    return Verdict("promote", _praise(champion, challenger, minutes, names))


def _missing(criteria: Criteria, champion: Tally, challenger: Tally, minutes: float, names: Names) -> str:
    """What there is not enough of yet; nothing if all is there."""
    if challenger.requests < criteria.requests:
        return f"{names.challenger} has had {challenger.requests} of {criteria.requests} requests."
    if champion.answered < KNOWN:
        return f"{names.champion} has answered {champion.answered} of the {KNOWN} requests it is judged by."
    if minutes < criteria.minutes:
        return f"{minutes:.1f} of {criteria.minutes:g} minutes are over."
    if min(champion.probes, challenger.probes) < PROBES:
        return f"{challenger.probes} of {PROBES} probes of the quality were made."
    return ""


def _broken(challenger: Tally, names: Names) -> str:
    if not challenger.broken:
        return ""
    count = f"{challenger.broken} of {challenger.probes} probes"
    return f"{names.challenger} generated numbers that are not finite, in {count}."


def _failing(champion: Tally, challenger: Tally, level: float, names: Names) -> str:
    """More failures than chance explains, by Fisher's exact test, and more than one or two mishaps."""
    if challenger.failed < (MISHAPS if level == HASTY else 2):
        return ""
    from scipy.stats import fisher_exact

    table = [[challenger.failed, challenger.answered], [champion.failed, champion.answered]]
    chance = float(fisher_exact(table, alternative="greater").pvalue)
    if chance >= level:
        return ""
    return (
        f"{names.challenger} failed {challenger.failed} of {challenger.requests} requests and {names.champion} "
        f"{champion.failed} of {champion.requests} (by chance: p = {chance:.2g})."
    )


def _slow(
    criteria: Criteria, champion: Tally, challenger: Tally, level: float, share: float, names: Names
) -> str:
    """More late answers than chance explains, by the binomial test; late is what exceeds the champion's quantile."""
    late, known = _late(criteria, champion, challenger, share)
    if known < KNOWN or late <= known * (1 - share):
        return ""
    from scipy.stats import binomtest

    chance = float(binomtest(late, known, 1 - share, alternative="greater").pvalue)
    if chance >= level:
        return ""
    return (
        f"{late} of {known} answers of {names.challenger} were later than {criteria.slower:g} times the "
        f"p{100 * share:.0f} of {names.champion} (by chance: p = {chance:.2g}); {_pace(champion, challenger)}."
    )


def _late(criteria: Criteria, champion: Tally, challenger: Tally, share: float) -> tuple[int, int]:
    """How many of the challenger's answers are late, of those whose kind of request the champion answers too."""
    late = known = 0
    for kind, counts in challenger.seconds.items():
        usual = _upper(champion.seconds.get(kind, {}), share)
        if usual is not None:
            limit = max(criteria.slower * usual, usual + FLOOR)
            late += sum(count for place, count in counts.items() if middle(place) > limit)
            known += sum(counts.values())
    return late, known


def _upper(counts: Mapping[int, int], share: float) -> float | None:
    """The upper end of the 95% interval of a quantile, by its rank; None where there are too few answers for it."""
    total = sum(counts.values())
    if total < KNOWN:
        return None
    from scipy.stats import binom

    rank = int(binom.ppf(0.95, total, share)) + 1
    return ranked(counts, rank) if rank <= total else None


def _alike(criteria: Criteria, champion: Tally, challenger: Tally, names: Names) -> str:
    """Samples that are much more alike than the champion's: the two intervals are apart by the factor asked for."""
    ours, theirs = challenger.variety, champion.variety
    if min(champion.probes, challenger.probes) < PROBES:
        return ""
    if ours.mean + ours.half >= criteria.variety * (theirs.mean - theirs.half):
        return ""
    return (
        f"What {names.challenger} generates is much alike: its variety is {ours.mean:.3g} ± {ours.half:.2g} and that "
        f"of {names.champion} {theirs.mean:.3g} ± {theirs.half:.2g}."
    )


def _praise(champion: Tally, challenger: Tally, minutes: float, names: Names) -> str:
    return (
        f"In {minutes:.1f} minutes {names.challenger} failed {challenger.failed} of {challenger.requests} requests "
        f"and {names.champion} {champion.failed} of {champion.requests}; {_pace(champion, challenger)}; their "
        f"variety was {challenger.variety.mean:.3g} and {champion.variety.mean:.3g}."
    )


def _pace(champion: Tally, challenger: Tally) -> str:
    """Both sides' median and 95th percentile."""
    said = []
    for share in QUANTILES:
        ours, theirs = challenger.quantile(share), champion.quantile(share)
        if ours is not None and theirs is not None:
            said.append(f"p{100 * share:.0f} was {1000 * ours:.3g} ms against {1000 * theirs:.3g} ms")
    return ", ".join(said) or "there were no answers to compare"
