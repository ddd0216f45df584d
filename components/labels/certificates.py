"""Certificates and keys as the C2PA specification wants them: made here, or an operator's own read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from components.errors import UserError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

DAYS = 3650
"""How long a certificate that is made here holds."""
NOT_FOR = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)
"""What a key of ours is not used for."""


def made(name: str) -> tuple[bytes, bytes]:
    """A new chain and its key in PEM,: P-256, for signatures of documents only."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = issued(f"{name} labels authority", name, root, None, root)
    leaf = issued(f"{name} labels", name, own, authority, root)
    key = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem_of(leaf) + pem_of(authority), key


def issued(
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


def pem_of(certificate: Certificate) -> bytes:
    """A certificate in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def issues(certificate: Certificate) -> bool:
    """Whether it is that of an authority."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def read_chain(chain: bytes) -> list[Certificate]:
    """The certificates of a chain, of which the first is the signer's own. Raises `UserError`."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise UserError(
            "The certificate is none in PEM; give the signer's own first, then its issuers."
        ) from error


def algorithm_of(key: bytes) -> bytes:
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
