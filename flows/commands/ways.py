"""The ways of `genloom generate`: for each modality what may be asked of its models, and how the answer is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from components.errors import UserError
from flows.commands.generate import open_file, say_drawn, without

if TYPE_CHECKING:
    from components.serving.place import Place

SAMPLING = frozenset({"temperature", "top_p"})


@dataclass(frozen=True)
class Wanted:
    """What the command line was told: the options of the modality (None where not given), how many, which, where."""

    asked: Mapping[str, Any]
    number: int | None
    seed: int | None
    out: Path | None
    as_json: bool

    def but(self, *names: str) -> dict[str, Any]:
        """The options without some."""
        return {name: value for name, value in self.asked.items() if name not in names}


@dataclass(frozen=True)
class Way:
    """The options that a modality's models take; and who asks them and writes the answer."""

    options: frozenset[str]
    make: Callable[[Place, Wanted], None]


def _draw(place: Place, wanted: Wanted) -> None:
    from components.serving import draw

    target = draw.check_target(wanted.out or Path("out.png"))
    drawn = draw.draw(place, wanted.number or 16, wanted.seed, wanted.asked)
    say_drawn(drawn, draw.write(target, drawn), wanted.as_json)


def _write(place: Place, wanted: Wanted) -> None:
    import secrets

    from components.labels.formats import TEXT
    from components.labels.marker import lay_beside
    from components.serving import speak

    out, number = wanted.out, wanted.number or 1
    first = secrets.randbelow(2**52) if wanted.seed is None else wanted.seed
    body = speak.body_of({"model": place.asked, "seed": first, **wanted.asked, "n": number})
    with open_file(out) as stream:
        if wanted.as_json:
            print(json.dumps(speak.whole(place, body), ensure_ascii=False, indent=2), file=stream)
        elif number == 1:
            for piece in speak.speak(place, body):
                print(piece.text, end="", file=stream, flush=True)
            print(file=stream)
        else:
            said = [""] * number
            for piece in speak.speak(place, body):
                said[piece.row] += piece.text
            for row, text in enumerate(said):
                print(f"── {first + row} ──\n{text}\n", file=stream)
    if out is not None and not wanted.as_json:
        lay_beside(place.marker, out, TEXT, first)
    written = "" if out is None else f" {out}"
    typer.echo(f"{place.product}/{place.version} wrote{written} with seed {first}, {place.where}.", err=True)


def _sound(place: Place, wanted: Wanted) -> None:
    from components.serving import draw, sound

    out, prompt = wanted.out or Path("out.wav"), wanted.asked["prompt"]
    if prompt is None:
        target = draw.check_target(out, (".wav",), "recordings")
        made = sound.record(place, wanted.number or 1, wanted.seed, wanted.but("prompt"))
    else:
        without(
            {"label": wanted.asked["label"], "number": wanted.number},
            "With --prompt all words are in one file, without",
        )
        target = draw.check_target(out, sound.KINDS, "recordings")
        options = wanted.but("prompt", "label")
        made = sound.speak(place, prompt, wanted.seed, sound.target_kind(target), options)
    say_drawn(made, draw.write(target, made, joined=sound.joined), wanted.as_json)


def _compose(place: Place, wanted: Wanted) -> None:
    from components.serving import compose

    number, prime = wanted.number or 1, wanted.asked["prime"]
    target = compose.check_target(wanted.out or Path("out.mid"), number)
    drawn = compose.compose(place, number, wanted.seed, wanted.but("prime"), prime)
    say_drawn(drawn, compose.write(place, target, drawn, prime), wanted.as_json)


def _forecast(place: Place, wanted: Wanted) -> None:
    from components.serving import draw, forecast

    out, number, context = wanted.out or Path("out.csv"), wanted.number or 16, wanted.asked["context"]
    if draw.check_target(out, forecast.KINDS, "series").folder:
        raise UserError(f"{out} is a folder; name a file such as {out / 'out.csv'}.")
    if context is not None:
        draw.check_apart([out, out.with_suffix(".png")], [context])
    asked = {**wanted.but("context"), "quantiles": _levels(wanted.asked["quantiles"])}
    found = forecast.forecast(place, context, {**asked, "n": number, "seed": wanted.seed})
    written = forecast.written(place, found, out)
    if found.withheld:
        typer.echo(f"The content filter of {place.product} withheld {found.withheld} of {number}.", err=True)
    if wanted.as_json:
        said = {"product": place.product, "version": place.version, "seed": found.seed, "where": place.where}
        print(json.dumps({**said, "files": [str(path) for path in written]}, ensure_ascii=False, indent=2))
        return
    what = "windows" if context is None else "futures"
    filled = found.content.get("filled", 0)
    typer.echo(
        f"{place.product}/{place.version} drew {number} {what} into {written[0]} and {written[1]} with seed "
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


def _design(place: Place, wanted: Wanted) -> None:
    from components.serving import draw
    from components.serving import molecules as designs

    out, number = wanted.out or Path("out.smi"), wanted.number or 16
    draw.check_target(out, designs.KINDS, "molecules", folders=False)
    asked = {**wanted.but("prompt"), "prefix": wanted.asked["prompt"]}
    made = designs.design(place, number, wanted.seed, asked)
    written = designs.write(out, made)
    shown = made.shown
    valid = sum(bool(one["valid"]) for one in shown)
    if wanted.as_json:
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


WAYS: Mapping[str, Way] = {
    "image": Way(
        frozenset({"size", "label", "steps", "guidance", "truncation", "prompt"}),
        _draw,
    ),
    "text": Way(SAMPLING | {"prompt", "max_tokens", "stop"}, _write),
    "audio": Way(frozenset({"label", "guidance", "temperature", "prompt"}), _sound),
    "music": Way(SAMPLING | {"prime", "bars"}, _compose),
    "series": Way(frozenset({"temperature", "context", "horizon", "quantiles", "channel"}), _forecast),
    "molecule": Way(SAMPLING | {"prompt", "label", "valid_only", "contains"}, _design),
}
"""What `genloom generate` does, by modality."""
