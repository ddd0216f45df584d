"""`/openapi.json`, as FastAPI words it and these routes are: errors in OpenAI's shape, keys, bodies that we read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from components.serving.routes.access import OPEN
from components.serving.routes.answers import BYTES, Error

ABOUT = """Generative models, asked as OpenAI's are.

Beyond loopback every request needs a key (`authorization: Bearer …`). `/v1/models` names each model's routes."""
SCHEME = {"bearer": {"type": "http", "scheme": "bearer", "description": "A key of `genloom keys create`."}}
FAILED: Mapping[str, Any] = {
    "4XX": {"description": "The request is refused, for the reason that the answer says."},
    "5XX": {"description": "The server cannot answer this now, or failed."},
}


def install(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> None:
    """Have `app` describe itself so, `bodies` included; call it when all routes are there."""

    def described() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _described(app, bodies)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def paths(app: FastAPI) -> frozenset[str]:
    """The paths that `app` has so far, such as /v1/models/{name}."""
    return frozenset(get_openapi(title=app.title, version=app.version, routes=app.routes)["paths"])


def _described(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    kinds: list[type[BaseModel]] = [Error, *bodies]
    for kind in kinds:
        schema = schema_of(kind)
        schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = SCHEME
    for path, operations in found["paths"].items():
        for operation in operations.values():
            _mend(operation, path)
    return found


def _mend(operation: dict[str, Any], path: str) -> None:
    """Errors and keys of one operation; on loopback no key is needed."""
    responses = operation["responses"]
    responses.pop("422", None)
    content = {"application/json": {"schema": _named(Error)}}
    responses.update({status: {**about, "content": content} for status, about in FAILED.items()})
    operation["security"] = [] if path in OPEN else [{"bearer": []}, {}]


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of what is read as a `kind`, whose parts are found where OpenAPI keeps them."""
    return kind.model_json_schema(ref_template="#/components/schemas/{model}")


def body(*contents: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """What FastAPI takes as `openapi_extra` for a body that a route reads itself: content types with their schemas."""
    content = {kind: {"schema": schema} for kind, schema in contents}
    return {"requestBody": {"required": True, "content": content}}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body of JSON that is read as a `kind`."""
    return body(("application/json", _named(kind)))


def form_or_json(kind: type[BaseModel]) -> dict[str, Any]:
    """A body that is read as a `kind` and holds files: as those of a form, or as Base64 in JSON."""
    form = schema_of(kind)
    properties = dict(form["properties"])
    sent = {
        "image": {"anyOf": [BYTES, {"type": "array", "items": BYTES}]},
        "mask": BYTES,
        "file": BYTES,
    }
    properties |= {name: schema for name, schema in sent.items() if name in properties}
    return body(
        ("multipart/form-data", {**form, "properties": properties}), ("application/json", _named(kind))
    )


def any_body(*kinds: type[BaseModel]) -> dict[str, Any]:
    """A body that is read as one of `kinds`, by the model that it names."""
    return body(("application/json", {"anyOf": [_named(kind) for kind in kinds]}))


def _named(kind: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
