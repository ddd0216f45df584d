"""Content Credentials (C2PA): the operator's key and certificate, signatures of files, and what a signature says.

The only file that knows c2pa and its settings. The key is the operator's own, or one that is made here with a
certificate authority of its own: C2PA refuses certificates that sign themselves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components import files
from components.errors import FailedError, UserError
from components.labels import certificates
from components.labels.statement import LONGEST, SOURCE, Statement, generator, of_content
from components.settings import Settings, writable_home

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERTIFICATE, KEY, KNOWN = "certificate.pem", "key.pem", "known.pem"
"""The chain, its key (0600), and every certificate that has ever signed here."""
ASSERTION = "org.genloom.statement"
EXTRA = "install it with pip install 'genloom[c2pa]'"
State = Literal["trusted", "unknown", "broken"]


@dataclass(frozen=True)
class Credential:
    """A certificate that signs: whose, until when, and the sha256 of its DER in hex."""

    name: str
    until: datetime
    fingerprint: str
    folder: Path


@dataclass(frozen=True)
class Signature:
    """What a file's Content Credential says: `trusted` is signed here and whole, `unknown` whole but signed elsewhere.

    `broken` is one that does not hold, for the `problems`, which are C2PA's own words.
    """

    state: State
    signer: str
    problems: tuple[str, ...]
    statement: Statement | None
    source: str | None


class Sealer:
    """Signs files with the operator's key; several threads may do so at a time."""

    def __init__(self, chain: bytes, key: bytes) -> None:
        """`chain` and `key` in PEM; raises `UserError` if they do not fit each other or C2PA."""
        c2pa = _library()
        settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
        self._context = c2pa.Context.from_dict(settings)
        try:
            info = c2pa.C2paSignerInfo(certificates.algorithm_of(key), chain, key, None)
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise UserError(
                f"The key cannot sign ({_short(error)}); give one with its certificate, both in PEM."
            ) from error

    def seal(self, file: bytes, media_type: str, statement: Statement) -> bytes:
        """`file` with a signed Content Credential, which covers every byte of it. Raises `FailedError`."""
        c2pa = _library()
        target = io.BytesIO()
        try:
            with c2pa.Builder(_manifest(statement), context=self._context) as builder:
                builder.sign(self._signer, media_type, io.BytesIO(file), target)
        except c2pa.C2paError as error:
            raise FailedError(f"The file could not be signed ({_short(error)}).") from error
        return target.getvalue()


def _manifest(statement: Statement) -> dict[str, Any]:
    name, _, number = (statement.generator or generator()).partition(" ")
    agent = {"name": name, "version": number}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE, "softwareAgent": agent}
    said = {field: value for field, value in asdict(statement).items() if value not in (None, "")}
    return {
        "claim_generator_info": [agent],
        "title": statement.name,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
            {"label": ASSERTION, "data": said},
        ],
    }


def folder_of(settings: Settings) -> Path:
    """Where key and certificates lie; all nodes of a cluster see it."""
    return settings.shared / "labels"


def open_sealer(settings: Settings, product: str) -> Sealer:
    """What signs with the project's key. Raises `UserError` without a key, or without c2pa."""
    folder = folder_of(settings)
    where = f"products.{product} says labels: signed"
    try:
        chain, key = (folder / CERTIFICATE).read_bytes(), (folder / KEY).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{where} and there is no key yet; make one with genloom labels init.") from error
    except OSError as error:
        raise UserError(f"{where} and {error.filename} cannot be read ({error.strerror}).") from error
    return Sealer(chain, key)


def check_free(settings: Settings) -> None:
    """Raise `UserError` if there is a key already."""
    folder = folder_of(settings)
    if (folder / KEY).exists():
        raise UserError(
            f"There is a key already, {folder / KEY}; replace it with genloom labels init --replace."
        )


def make(settings: Settings) -> Credential:
    """Make a key with a certificate of an authority of its own, whose key is forgotten, and keep them."""
    _library()
    chain, key = certificates.made(settings.producer or "Genloom")
    return keep(settings, chain, key)


def keep(settings: Settings, chain: bytes, key: bytes) -> Credential:
    """Sign with `key` and its certificates from now on; what was signed before stays known.

    Raises `UserError` for a pair that C2PA refuses, before anything is written.
    """
    own, *_ = certificates.read_chain(chain)
    _prove(chain, key)
    writable_home(settings)
    folder = folder_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    before = known(settings)
    if certificates.pem_of(own) not in before:
        files.write(
            folder / KNOWN,
            before + b"".join(map(certificates.pem_of, certificates.read_chain(chain))),
            sync=True,
        )
    files.write(folder / KEY, key, mode=0o600, sync=True)
    files.write(folder / CERTIFICATE, chain, sync=True)
    return described(own, folder)


def known(settings: Settings) -> bytes:
    """The certificates that have signed here, in PEM."""
    try:
        return (folder_of(settings) / KNOWN).read_bytes()
    except FileNotFoundError:
        return b""


def described(certificate: Certificate, folder: Path) -> Credential:
    """A certificate's name, its end, its fingerprint."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return Credential(
        certificate.subject.rfc4514_string(),
        certificate.not_valid_after_utc,
        certificate.fingerprint(SHA256()).hex(),
        folder,
    )


def signature(file: bytes, media_type: str, trusted: bytes) -> Signature | None:
    """What the Content Credential of `file` says, if it has one; `trusted` are the certificates that sign here.

    Their issuers, which stand among them, vouch for others too, so the signer's own number counts as well.

    Nothing is asked of the network. Raises `UserError` for a file that cannot be read.
    """
    c2pa = _library()
    own = certificates.read_chain(trusted) if trusted else []
    anchors = b"".join(certificates.pem_of(one) for one in own if certificates.issues(one)).decode()
    settings = {
        "trust": {"trust_anchors": anchors} if anchors else {},
        "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
    }
    try:
        reader = c2pa.Reader.try_create(
            media_type, io.BytesIO(file), context=c2pa.Context.from_dict(settings)
        )
        return (
            None if reader is None else _read(json.loads(reader.json()), {one.serial_number for one in own})
        )
    except c2pa.C2paError as error:
        raise UserError(f"The file's Content Credential cannot be read ({_short(error)}).") from error


def _read(store: Mapping[str, Any], own: Collection[int]) -> Signature:
    states: Mapping[str, State] = {"Trusted": "trusted", "Valid": "unknown"}
    state: State = states.get(str(store.get("validation_state")), "broken")
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    assertions = {one["label"]: one.get("data") for one in manifest.get("assertions", ())}
    actions = assertions.get("c2pa.actions.v2") or assertions.get("c2pa.actions") or {}
    sources = [one.get("digitalSourceType") for one in actions.get("actions", ())]
    info = manifest.get("signature_info") or {}
    if state == "trusted" and info.get("cert_serial_number") not in {str(number) for number in own}:
        state = "unknown"
    return Signature(
        state,
        _printable(str(info.get("common_name") or info.get("issuer") or "nobody")),
        tuple(one["code"] for one in store.get("validation_status", ()) if state == "broken"),
        of_content(assertions.get(ASSERTION)),
        next((one for one in sources if one), None),
    )


def _prove(chain: bytes, key: bytes) -> None:
    """Raise `UserError` unless what `key` signs is good by `chain`, on a picture of one point."""
    from components.labels.formats import PNG

    about = Statement("probe", 1, "0" * 64, generator=generator())
    try:
        found = signature(Sealer(chain, key).seal(_point(), PNG, about), PNG, chain)
    except FailedError as error:
        raise UserError(f"{str(error).removesuffix('.')}; give a certificate as C2PA wants it.") from error
    if found is None or found.state != "trusted":
        why = (
            ", ".join(found.problems)
            if found is not None and found.problems
            else "its issuer is missing, or it is another key's"
        )
        raise UserError(
            f"C2PA refuses what this key signs by this certificate ({why}); give the key's own, with the purpose "
            "emailProtection or documentSigning, and its issuers behind it."
        )


def _point() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    return stream.getvalue()


def _printable(name: str) -> str:
    """A name that somebody else has chosen, as it may be shown."""
    return "".join(part for part in name if part.isprintable())[:LONGEST]


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _library() -> Any:
    """The module c2pa; raises `UserError` where it is not installed."""
    try:
        import c2pa
    except ImportError as error:
        raise UserError(f"Content Credentials need c2pa-python; {EXTRA}.") from error
    return c2pa
