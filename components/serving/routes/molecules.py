"""The answers of models of molecules at `/v1/generations`: JSON with what is known of each, or one file of all."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from typing import Any

from fastapi.responses import Response

from components.modalities.designing import MoleculeRequest
from components.modalities.structures import TYPES, filed
from components.serving.catalog import Loaded, Withheld
from components.serving.making import Made, Making, ready
from components.serving.marking import keep
from components.serving.molecules import Search, first_seed
from components.serving.routes.errors import WithheldError
from components.serving.routes.events import done
from components.serving.routes.models import field_of, headers


async def respond(loaded: Loaded, body: MoleculeRequest) -> Response:
    """Draw until there are as many as are wanted; a client that leaves frees its rows."""
    search = Search(body, first_seed(body))
    while (more := search.next()) is not None:
        making = (await asyncio.to_thread(ready, loaded, more))()
        output = await done(making.work)
        await asyncio.to_thread(lambda made: search.take(made), _taken(making, output))
    answer = search.answer()
    if all("withheld" in one for one in answer["data"]):
        raise WithheldError(str(Withheld(answer["data"][0]["withheld"])))
    content, kind = await asyncio.to_thread(_written, loaded, body, answer, search.seed)
    return Response(content, media_type=kind, headers=_headers(loaded, search.seed, answer))


def _taken(making: Making, output: Any) -> list[Made]:
    return [making.take(place, output) for place in range(making.count)]


def _headers(loaded: Loaded, seed: int, answer: dict[str, Any]) -> dict[str, str]:
    """Those of every answer, and how many molecules were drawn for it."""
    return {**headers(loaded, seed), "x-genloom-drawn": str(answer["drawn"])}


def _written(loaded: Loaded, body: MoleculeRequest, answer: dict[str, Any], seed: int) -> tuple[bytes, str]:
    """The answer in the format that is asked for, and its media type; the hashes of what is given out are kept."""
    shown = [one for one in answer["data"] if "withheld" not in one]
    if body.response_format != "json":
        file = filed(shown, body.response_format)
        keep(loaded, [file.decode()], seed)
        return file, TYPES[body.response_format]
    content = {"created": int(time.time()), "model": loaded.served.product, **answer}
    content["data"] = [_item(one) for one in answer["data"]]
    contents = [own for one in shown for own in keep(loaded, [one["smiles"]], one["seed"])]
    told = field_of(loaded, contents)
    return json.dumps(content).encode()[:-1] + told + b"}", "application/json"


def _item(one: dict[str, Any]) -> dict[str, Any]:
    """A molecule, which is a file as those of other modalities are as well."""
    text = one["smiles"]
    coded = None if text is None else b64encode(text.encode()).decode("ascii")
    return {"b64": coded, "media_type": TYPES["smi"], **one}
