"""Content Credentials (C2PA): the operator's key and certificate, signatures of files, and what a signature says.

The only file that knows c2pa and its settings. The key is the operator's own, or one that is made here with a
certificate authority of its own: C2PA refuses certificates that sign themselves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components import files
from components.errors import FailedError, UserError
from components.labels.statement import SOURCE, Statement, generator, of_content
from components.settings import Settings, writable_home

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERTIFICATE, KEY, KNOWN = "certificate.pem", "key.pem", "known.pem"
"""The chain, its key (0600), and every certificate that has ever signed here."""
DAYS = 3650
"""How long a certificate that is made here holds."""
ASSERTION = "org.genloom.statement"
NOT_FOR = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)
"""What a key of ours is not used for."""
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
            info = c2pa.C2paSignerInfo(_algorithm(key), chain, key, None)
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
    chain, key = made(settings.producer or "Genloom")
    return keep(settings, chain, key)


def keep(settings: Settings, chain: bytes, key: bytes) -> Credential:
    """Sign with `key` and its certificates from now on; what was signed before stays known.

    Raises `UserError` for a pair that C2PA refuses, before anything is written.
    """
    own, *_ = _certificates(chain)
    _prove(chain, key)
    writable_home(settings)
    folder = folder_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    before = known(settings)
    if _pem(own) not in before:
        files.write(folder / KNOWN, before + b"".join(map(_pem, _certificates(chain))), sync=True)
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
    own = _certificates(trusted) if trusted else []
    anchors = b"".join(_pem(one) for one in own if _issues(one)).decode()
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
        str(info.get("common_name") or info.get("issuer") or "nobody"),
        tuple(one["code"] for one in store.get("validation_status", ()) if state == "broken"),
        of_content(assertions.get(ASSERTION)),
        next((one for one in sources if one), None),
    )


def made(name: str) -> tuple[bytes, bytes]:
    """A new chain and its key in PEM, as C2PA wants them (section 14.5): P-256, signatures of documents only."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _issued(f"{name} labels authority", name, root, None, root)
    leaf = _issued(f"{name} labels", name, own, authority, root)
    key = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _pem(leaf) + _pem(authority), key


def _issued(
    common: str,
    organization: str,
    key: Any,
    issuer: Certificate | None,
    signing: Any,
    authority: bool = False,
) -> Certificate:
    """A certificate for `key`, signed by `issuer`'s key; without an issuer, that of an `authority`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    root = issuer is None or authority
    parts = [(NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, organization)]
    subject = x509.Name([x509.NameAttribute(oid, text[:64]) for oid, text in parts])
    flags = dict.fromkeys(NOT_FOR, False)
    usage = x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **flags)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False)
    )
    if not root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(signing, SHA256())


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _issues(certificate: Certificate) -> bool:
    """Whether it is that of an authority."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _certificates(chain: bytes) -> list[Certificate]:
    """The certificates of a chain, of which the first is the signer's own. Raises `UserError`."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise UserError(
            "The certificate is none in PEM; give the signer's own first, then its issuers."
        ) from error


def _algorithm(key: bytes) -> bytes:
    """C2PA's name of what a private key signs with. Raises `UserError`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError("The key is no private key in PEM without a password; give one.") from error
    curves = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}
    if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name in curves:
        return curves[found.curve.name]
    if isinstance(found, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(found, rsa.RSAPrivateKey):
        return b"ps256"
    raise UserError("C2PA signs with P-256, P-384, P-521, Ed25519 or RSA; give a key of these.")


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


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _library() -> Any:
    """The module c2pa; raises `UserError` where it is not installed."""
    try:
        import c2pa
    except ImportError as error:
        raise UserError(f"Content Credentials need c2pa-python; {EXTRA}.") from error
    return c2pa
