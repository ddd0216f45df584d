"""What a file says of its origin, and whether that holds: its mark, its signature, the hashes that servers kept."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from components.errors import FailedError, UserError
from components.labels import credentials, journal, rows
from components.labels.credentials import Signature
from components.labels.formats import PCM, TEXT, check_known, format_of, media_type_of, text_content
from components.labels.journal import Issued
from components.labels.marker import BESIDE
from components.labels.statement import FIELD, SOURCE, Statement, of_content, parsed
from components.settings import Settings

Verdict = Literal["signed", "marked", "altered", "stripped", "foreign", "unmarked"]
Standing = Literal["champion", "registered", "withdrawn", "another", "unknown"]
"""Of the version that a mark names, in this project's registry: `another` has that number and other weights."""
JSON, PARQUET, BYTES = "application/json", "application/vnd.apache.parquet", "application/octet-stream"
LARGEST = 2**28
"""Bytes of a file that is read."""


@dataclass(frozen=True)
class Reading:
    """What was found of a file; `sentence` says the `verdict` to a person.

    `content` is the hash of what the file holds, `issued` when a server gave that out, where it kept it.
    """

    media_type: str
    verdict: Verdict
    sentence: str
    statement: Statement | None
    content: str
    signature: Signature | None = None
    issued: Issued | None = None
    standing: Standing | None = None


@dataclass(frozen=True)
class Found:
    """What a file says and what it holds, before it is judged."""

    media_type: str
    statement: Statement | None
    content: str
    matches: bool | None
    signature: Signature | None = None


def read_path(path: Path, settings: Settings) -> Reading:
    """Read the file at `path`, with the statement beside it if there is one. Raises `UserError`."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST // 2**20} MiB, too much to be checked.")
        file = path.read_bytes()
        beside = path.with_name(path.name + BESIDE)
        said = beside.read_bytes() if beside.is_file() else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file.") from error
    return read(file, settings, str(path), None if said is None else parsed(said))


def read(file: bytes, settings: Settings, name: str = "This", beside: Statement | None = None) -> Reading:
    """Read a file's bytes; `name` is what errors call it. Raises `UserError` for what is no file of ours."""
    if not file:
        raise UserError(f"{name} is empty; give the whole file.")
    answer = _answer(file)
    if answer is not None:
        return _read_answer(answer, settings)
    found = _with_signature(_found(file, name, beside), file, settings)
    version = None if found.statement is None else found.statement.name
    issued = journal.find(settings, found.content, version)
    if issued is None and found.media_type == TEXT and file.endswith(b"\n"):  # as editors end a file
        issued = journal.find(settings, text_content(file[:-1]), version)
    return _judged(found, issued, settings)


def _found(file: bytes, name: str, beside: Statement | None) -> Found:
    if file[:4] == b"PAR1":
        statement, content = rows.read(file)
        return Found(PARQUET, statement, content, _same(statement, content))
    media_type = PCM if name.lower().endswith(".pcm") else media_type_of(file)
    if beside is None:
        check_known(media_type, name)
    kind = format_of(media_type or BYTES)
    content = kind.content(file)
    statement = kind.found(file) or beside
    return Found(media_type or BYTES, statement, content, _same(statement, content))


def _same(statement: Statement | None, content: str) -> bool | None:
    """Whether the content is the one that the mark was made for; None where none says so."""
    return None if statement is None or statement.content is None else statement.content == content


def _judged(found: Found, issued: Issued | None, settings: Settings) -> Reading:
    """The verdict on what was found."""
    statement, signed = found.statement, found.signature
    if statement is None and issued is not None:
        statement = Statement(issued.product, issued.version, "", issued.seed, issued.content)
    verdict = _verdict(found, issued)
    standing = None if statement is None or verdict == "foreign" else standing_of(settings, statement)
    reading = Reading(found.media_type, verdict, "", statement, found.content, signed, issued, standing)
    return replace(reading, sentence=_sentence(reading))


def _with_signature(found: Found, file: bytes, settings: Settings) -> Found:
    """What was found, with the signature where the kind of file can have one; its word goes before the metadata's."""
    if not format_of(found.media_type).sealed:
        return found
    try:
        signed = credentials.signature(file, found.media_type, credentials.known(settings))
    except UserError:
        if b"c2pa" not in file:  # nothing to check, so nothing is needed that would check it
            return found
        raise
    if signed is None or signed.state == "broken" or signed.statement is None:
        return replace(found, signature=signed)
    matches = _same(signed.statement, found.content)
    return replace(found, signature=signed, statement=signed.statement, matches=matches)


def _verdict(found: Found, issued: Issued | None) -> Verdict:
    statement, signed = found.statement, found.signature
    if (signed is not None and signed.state == "broken") or found.matches is False:
        return "altered"
    if signed is not None:
        return "signed" if signed.state == "trusted" and signed.statement is not None else "foreign"
    if statement is not None:
        # a text may be said by several, a picture or a recording hardly
        apart = issued is not None and statement.name != issued.name and found.media_type not in (TEXT, JSON)
        return "altered" if apart else "marked"
    return "stripped" if issued is not None else "unmarked"


def standing_of(settings: Settings, statement: Statement) -> Standing:
    """How the version that a mark names stands here."""
    if not settings.tracking_uri and not (settings.home / "mlflow.db").exists():
        return "unknown"  # nothing was registered here, and a look makes no registry
    from components.promotion.registry import Registry

    try:
        version = Registry(settings).version(statement.product, statement.version)
    except (UserError, FailedError):
        return "unknown"
    if statement.digest and statement.digest != version.digest:
        return "another"
    if version.withdrawn is not None:
        return "withdrawn"
    return "champion" if "champion" in version.aliases else "registered"


STANDINGS: Mapping[Standing, str] = {
    "champion": "that version is the champion",
    "registered": "that version is registered and not the champion",
    "withdrawn": "that version was withdrawn, and nobody may use it any more",
    "another": "the version of that number in this registry is another artifact",
    "unknown": "this registry does not know that version",
}


def _sentence(reading: Reading) -> str:
    who = "" if reading.statement is None else reading.statement.name
    rest = "" if reading.standing is None else f" {STANDINGS[reading.standing].capitalize()}."
    known = _known(reading)
    match reading.verdict:
        case "signed":
            assert reading.signature is not None
            by = reading.signature.signer
            return f"Made by the model {who}, signed by {by}; signature and content are whole.{known}{rest}"
        case "marked":
            whole = (
                "" if reading.statement and reading.statement.content is None else "; the content is whole"
            )
            claim = known or " The mark is not signed, so anybody could have written it."
            return f"Made by the model {who}, as its mark says{whole}.{claim}{rest}"
        case "altered":
            return f"{_altered(reading)}{rest}"
        case "stripped":
            return f"It has no mark, and its content is one that {who} gave out.{known}{rest}"
        case "foreign":
            return _foreign(reading)
        case "unmarked":
            return "It has no mark, and no server of this project has kept its content; who made it is not known."


def _known(reading: Reading) -> str:
    """When the version gave it out, if it did."""
    issued, statement = reading.issued, reading.statement
    if issued is None or (statement is not None and statement.name != issued.name):
        return ""
    return f" Given out at {issued.at} for the request {issued.request}."


def _altered(reading: Reading) -> str:
    signed, statement, issued = reading.signature, reading.statement, reading.issued
    if signed is not None and signed.state == "broken":
        return f"It was altered since it was signed by {signed.signer} ({', '.join(signed.problems)})."
    assert statement is not None
    given_by_other = issued is not None and issued.name != statement.name
    if issued is not None and given_by_other and statement.content in (None, reading.content):
        return f"Its mark says {statement.name}, and this content was given out by {issued.name}."
    return f"It was altered: its mark is that of {statement.name}, made for other content."


def _foreign(reading: Reading) -> str:
    signed = reading.signature
    assert signed is not None
    if signed.state == "trusted":
        return f"Signed by {signed.signer}, with a key of this project, and not as what a model of it made."
    what = "that a model made it" if signed.source == SOURCE else "nothing of a model"
    if signed.statement is not None:
        what = f"that {signed.statement.name} made it"
    return (
        f"Signed by {signed.signer}, whose certificate this project does not know; the signature is whole and says "
        f"{what}."
    )


def _answer(file: bytes) -> dict[str, Any] | None:
    """The object of a JSON answer that carries a statement, or None."""
    if file.lstrip()[:1] != b"{":
        return None
    try:
        content = json.loads(file)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get(FIELD), dict) else None


def _read_answer(answer: Mapping[str, Any], settings: Settings) -> Reading:
    """An answer's texts are compared with the hashes in its field; files in it carry marks of their own."""
    statement, said = of_content(answer[FIELD]), answer[FIELD].get("contents")
    files = _files(answer)
    if files and said is None:
        found = [read(file, settings, "A file of the answer") for file in files]
        worst = next((one for one in found if one.verdict not in ("signed", "marked")), found[0])
        return replace(
            worst, sentence=f"{len(files)} files, of which the first that counts: {worst.sentence}"
        )
    contents = [text_content(text) for text in files or _tables(answer) or _texts(answer)]
    name = None if statement is None else statement.name
    known = [one for content in contents if (one := journal.find(settings, content, name)) is not None]
    matches = None if said is None else said == contents
    found_text = Found(JSON, statement, contents[0] if contents else "", matches)
    return _judged(found_text, known[0] if known else None, settings)


def _files(answer: Mapping[str, Any]) -> Sequence[bytes]:
    data = answer.get("data")
    items = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    coded = [one.get("b64_json") or one.get("b64") for one in items]
    try:
        return [b64decode(one) for one in coded if isinstance(one, str)]
    except ValueError as error:
        raise UserError("A file of the answer is no Base64; give the answer as it was sent.") from error


def _tables(answer: Mapping[str, Any]) -> Sequence[bytes]:
    """Of series, the table that all their numbers make; no more than that is hashed, and it is the same as CSV."""
    if "horizon" not in answer:
        return []
    from components.modalities.forecast import as_csv

    try:
        return [as_csv(answer)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # whatever somebody made of it
        return [b""]


def _texts(answer: Mapping[str, Any]) -> Sequence[bytes]:
    """The texts of completions and of chats."""
    choices = answer.get("choices")
    items = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    texts = [
        one["message"].get("content") if isinstance(one.get("message"), dict) else one.get("text")
        for one in items
    ]
    return [text.encode("utf-8", "surrogatepass") for text in texts if isinstance(text, str)]
