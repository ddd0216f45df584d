"""Series for the command line: futures of a context, or windows; by the running server, or by a model loaded here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import UserError
from components.labels.formats import text_content
from components.labels.statement import FIELD
from components.modalities.chart import GREY, ORANGE, Band, Line, Panel, chart
from components.modalities.forecast import ROWS, UNNAMED, SeriesRequest, as_csv, as_json, collected, joined
from components.modalities.series import Series
from components.modalities.tables import Table, Values, read_csv, regular, to_csv
from components.serving import client
from components.serving.catalog import SEEDS
from components.serving.draw import RECORD, body_of, check_version, parts, write_pictured
from components.serving.place import Place

KINDS = (".csv", ".json")
"""The ends of the files that series may be written to."""
READ = 2
"""Of a file, so many times what the model looks at are sent: some may be missing."""
SHOWN = 12
"""The channels, or windows, of a picture."""


@dataclass(frozen=True)
class Forecast:
    """An answer, the picture of it, the seed that it begins with, and how many of it a content filter held back."""

    content: dict[str, Any]
    picture: bytes
    seed: int
    withheld: int = 0


def context_of(path: Path, steps: int) -> tuple[Any, Table | None]:
    """What a file of CSV, Parquet or JSON holds as a request carries it, and its table; of that, the last `steps`.

    Raises `UserError`.
    """
    from components.data.tables import read_table

    try:
        if path.suffix.lower() == ".json":
            return _json(path), None
        table = regular(read_table(path, path.name), path.name).last(steps)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); name a file of CSV, Parquet or JSON."
        ) from error
    return to_csv(table), table


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); write a list of numbers, or lists by channel."
        ) from error
    return found.get("context", found) if isinstance(found, dict) else found


def forecast(place: Place, path: Path | None, given: Mapping[str, Any]) -> Forecast:
    """The answer for the context in `path`, or windows without one. Raises `UserError`."""
    context, table = (None, None) if path is None else context_of(path, READ * int(place.about["context"]))
    first = secrets.randbelow(SEEDS) if given.get("seed") is None else given["seed"]
    number = given.get("n") or 1
    asked = {name: value for name, value in given.items() if value is not None} | {"seed": first, "n": 1}
    body = body_of(SeriesRequest, asked if context is None else {**asked, "context": context})
    before = {} if context is None else _before(body, table)
    content = _in_parts(place, body, number, max(1, ROWS // max(1, len(before))))
    picture = _windows(content) if context is None else _fans(content, before)
    return Forecast(content, picture, first, number - len(content.get("seeds", content["data"])))


def written(place: Place, answer: Forecast, target: Path) -> list[Path]:
    """Write the answer as the end of `target` says, and its picture beside it; the files, in that order."""
    kind = target.suffix.lower()
    content = as_json(answer.content) if kind == ".json" else as_csv(answer.content)
    return write_pictured(place.marker, target, content, answer.picture, answer.seed)


def _in_parts(place: Place, body: SeriesRequest, number: int, most: int) -> dict[str, Any]:
    """The answer to `body` with `number` for its `n`, of which at most so many are asked for at a time.

    Raises `UserError`, also if the content filter lets out none.
    """
    answers, withheld = [], None
    for count, seed in parts(number, body.seed or 0, most):
        try:
            answers.append(_asked(place, body.model_copy(update={"n": count, "seed": seed})))
        except client.WithheldError as error:
            withheld = error
    if withheld is not None and not answers:
        raise withheld
    if len(answers) == 1:
        return answers[0]
    content = joined(answers, body.quantiles)
    if FIELD in content:
        content[FIELD] = {**content[FIELD], "contents": [text_content(as_csv(content))]}
    return content


def _asked(place: Place, body: SeriesRequest) -> dict[str, Any]:
    """The answer, whoever computes it."""
    if place.loaded is None:
        assert place.url is not None
        sent = {**body.model_dump(exclude_defaults=True), "model": place.asked}
        content, version = client.file(place.url, RECORD, sent)
        check_version(place, version)
        return dict(json.loads(content))
    modality = place.loaded.model.modality
    assert isinstance(modality, Series)
    made, order = place.loaded.generate(body)
    return collected(body, modality.binning, made, order.seeds)


def _before(body: SeriesRequest, table: Table | None) -> Mapping[str, Values]:
    """The context by channel, as it was given."""
    if table is not None:
        return {name: table.values[:, place] for place, name in enumerate(table.names)}
    if isinstance(body.context, str):  # CSV in a file of JSON
        table = regular(read_csv(body.context, "The context"), "The context")
        return _before(body, table)
    given = body.context if isinstance(body.context, dict) else {body.channel or UNNAMED: body.context}
    return {name: np.array(values, dtype=np.float64) for name, values in given.items()}


def _fans(content: Mapping[str, Any], before: Mapping[str, Values]) -> bytes:
    """What came before in grey, the quantiles as bands, the middle one as a line; a few futures where none are."""
    panels = []
    for one in content["data"][:SHOWN]:
        context = before.get(one["channel"], np.zeros(0))[-4 * content["horizon"] :]
        first = len(context)
        levels = [np.array(values) for values in one["quantiles"].values()]
        bands = [Band(levels[place], levels[-1 - place], first) for place in range(len(levels) // 2)]
        middle = [Line(levels[len(levels) // 2], first, ORANGE)] if len(levels) % 2 else []
        futures = [Line(np.array(sample), first, ORANGE) for sample in one["samples"][:10]]
        lines = [Line(context, 0, GREY), *(middle or ([] if levels else futures))]
        panels.append(Panel(one["channel"], lines, bands, marks=[first - 0.5] if first else []))
    return chart(panels, columns=1 if len(panels) < 3 else 2, size=(640, 240))


def _windows(content: Mapping[str, Any]) -> bytes:
    """A panel a window."""
    shown = content["data"][:SHOWN]
    panels = [
        Panel(f"{one['channel']}, seed {one['seed']}", [Line(np.array(one["values"]))]) for one in shown
    ]
    return chart(panels, columns=2, size=(480, 180))
