"""A recorded request made again, to see that its version and its seed give the same content, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from components import accelerator
from components.artifact import Model, load
from components.errors import UserError
from components.filtering import open_filter
from components.promotion.registry import Registry
from components.serving import computing
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine
from components.serving.making import begin
from components.serving.records import HASHED, Record, asked, content_hash, digest_of
from components.serving.routes.application import BODIES
from components.serving.routes.errors import sentence
from components.settings import Settings
from components.terms import Terms


@dataclass(frozen=True)
class Replayed:
    """The hash that was recorded, and that of the same request now."""

    record: Record
    content: str

    @property
    def same(self) -> bool:
        """Whether the content is the recorded one."""
        return self.content == self.record.content


def replay(
    settings: Settings, record: Record, terms: Terms, given: Mapping[str, Any] | None = None
) -> Replayed:
    """Generate the request of `record` again, at the width, with the threads and computed as it was.

    By `terms` a text ends where the product's content filter ends it. `given` is the request's body where the record
    holds only its hash. Raises `UserError` if there is no body, if it is not the one that was recorded, if the version
    is not what answered, if the request never got an answer, or if it was computed on a GPU and there is none.
    """
    if record.content is None:
        raise UserError(f"The request {record.request} got no answer ({record.outcome}); name another one.")
    if not accelerator.there(record.device):
        raise UserError(
            f"The request {record.request} was computed on a GPU, which has other bits than a CPU, and torch sees none "
            "here; replay it on a machine that has one."
        )
    accelerator.repeatable(record.device)
    terms = replace(terms, precision=record.precision, compile=record.compile)
    registry = Registry(settings)
    folder = registry.fetch(registry.version(record.product, record.version))
    model = load(folder, record.device, record.packed and terms.usual)
    if model.digest != record.artifact:
        raise UserError(
            f"{record.product}/{record.version} is another artifact than the one that answered "
            f"({record.artifact[:12]}); restore the registry that the record is of."
        )
    body = _body(record, model, record.body if given is None else given)
    computing.prepare(model, terms, settings, record.packed)
    served = Served(record.product, record.version, folder, 0, terms=terms, device=record.device)
    engine = Engine(model, record.width, threads=record.threads)
    try:
        making = begin(Loaded(served, model, engine, open_filter(terms)), body)
        return Replayed(record, content_hash(making.work.result()))
    finally:
        engine.close()


def _body(record: Record, model: Model, content: Mapping[str, Any] | None) -> BaseModel:
    """The request as it was validated, with the seed that was drawn for it."""
    if content is None or HASHED in json.dumps(content):
        raise UserError(
            f"The record of {record.request} holds only the hash of what was asked, or of a part; give the whole with "
            f"--body FILE, or set records: full for {record.product} to keep all but files from now on."
        )
    kind = BODIES.get(record.route) or model.modality.asked(model.shape)
    try:
        body = kind.model_validate({**content, "seed": record.seed})
    except ValidationError as error:
        raise UserError(sentence(dict(error.errors()[0]), kind)[0]) from error
    if digest_of(asked(body)) != record.asked:
        raise UserError(
            f"This is not what the request {record.request} asked: the hashes differ; give the body that was sent."
        )
    return body
