"""Records of JSON as documents: a text field or a template, the messages of a chat, the two sides of a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from components.data.documents import Content
from components.errors import UserError, shortened, unknown
from components.modalities.tokenizer import ROLES
from components.rows import TextFilesRow, filled, template_fields


def contents(record: Any, row: TextFilesRow, where: str) -> Iterator[Content]:
    """The documents in one record; `where` names its file and line in the `UserError` for what is missing."""
    if not isinstance(record, dict):
        raise UserError(f'{where} is no object; write one such as {{"text": "…"}}.')
    if row.form == "chat":
        yield _chat(record, row, where)
    elif row.form == "pairs":
        yield from _pairs(record, row, where)
    elif row.template is not None:
        values = {name: _text(record, name, where) for name in template_fields(row.template)}
        yield filled(row.template, values)
    else:
        yield _text(record, row.field("text"), where)


def used(row: TextFilesRow) -> set[str]:
    """The names of the fields that are read."""
    if row.form == "chat":
        return {row.field("messages")}
    if row.form == "pairs":
        return {row.field("source"), row.field("target")}
    return {row.field("text")} if row.template is None else set(template_fields(row.template))


def lines(text: str) -> str:
    """`text` with all line ends as newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _value(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise UserError(f"{where}: {unknown('field', name, map(str, record))}")
    return record[name]


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    """A field as text; the texts of a list are joined by newlines."""
    return "\n".join(_listed(_value(record, name, where), name, where))


def _listed(value: Any, name: str, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            found = shortened(repr(text))
            raise UserError(f"{where}: the field “{name}” is {found}, no text or list of texts; mend it.")
    return [lines(text) for text in texts]


def _pairs(record: Mapping[str, Any], row: TextFilesRow, where: str) -> Iterator[Content]:
    """The source with the first target, or with each."""
    source = _text(record, row.field("source"), where)
    name = row.field("target")
    targets = _listed(_value(record, name, where), name, where)
    for target in (targets if row.targets == "each" else targets[:1]) or [""]:
        yield [["source", source], ["target", target]]


def _chat(record: Mapping[str, Any], row: TextFilesRow, where: str) -> Content:
    name = row.field("messages")
    messages = _value(record, name, where)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{where}: the field “{name}” is no list of messages; mend it.")
    turns = []
    for message in messages:
        role = _text(message, row.field("role"), where)
        known = row.roles.get(role, role)
        if known not in ROLES:
            raise UserError(
                f"{where} has the role “{shortened(role)}”; there are {', '.join(ROLES)}: say which it is under "
                "“roles” of the dataset's row."
            )
        turns.append([known, _text(message, row.field("content"), where)])
    return turns
