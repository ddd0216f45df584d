"""TLS: the server's certificate and key, looked at before it starts, and what our own clients believe."""

from __future__ import annotations

import ssl
from pathlib import Path

from components import files
from components.errors import UserError
from components.settings import Settings

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def check(settings: Settings) -> None:
    """Raise `UserError` unless certificate and key, if they are set, can be read and belong together."""
    if (files := pair(settings)) is None:
        return
    certificate, key = files
    for name, path in (("GENLOOM_TLS_CERT", certificate), ("GENLOOM_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            raise UserError(
                f"{name} is {path}, which cannot be read ({cause}); set it right or unset it."
            ) from error
    try:
        # without a password OpenSSL would ask at the terminal for that of an encrypted key
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="-")
    except (ssl.SSLError, ValueError) as error:
        raise UserError(
            f"{_cause(error, certificate, key)}; set GENLOOM_TLS_CERT and GENLOOM_TLS_KEY right."
        ) from error


def _cause(error: Exception, certificate: Path, key: Path) -> str:
    reason = str(getattr(error, "reason", None) or error)
    if reason == "KEY_VALUES_MISMATCH":
        return f"The key {key} is not that of the certificate {certificate}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate.read_text("utf-8"))
    except (ssl.SSLError, ValueError):
        return f"{certificate} is no certificate in PEM"
    return f"{key} is no private key in PEM without a password"


def pair(settings: Settings) -> tuple[Path, Path] | None:
    """The files of the certificate and of its key, or None for plain HTTP."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return settings.tls_cert, settings.tls_key


def publish(settings: Settings) -> None:
    """Put the server's certificate where the project's commands find it."""
    own = _own(settings)
    if settings.tls_cert is None:
        withdraw(settings)
        return
    files.write(own, _leaf(settings.tls_cert))


def withdraw(settings: Settings) -> None:
    """Take the certificate of a server that has ended away."""
    _own(settings).unlink(missing_ok=True)


def trust(settings: Settings) -> ssl.SSLContext:
    """Whom a client believes: `GENLOOM_TLS_CA`; else the running server's own certificate; else the system's CAs.

    Who is believed by his own certificate alone may be asked by any name, as loopback of a server for the world.
    """
    if settings.tls_ca is not None:
        return _by_authority(settings.tls_ca)
    try:
        certificate = _own(settings).read_text(encoding="utf-8")
    except FileNotFoundError:
        if settings.tls_cert is None:
            return ssl.create_default_context()
        certificate = _leaf(settings.tls_cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def _by_authority(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"GENLOOM_TLS_CA is {path}, which holds no certificate in PEM; set it right or unset it."
        ) from error


def _leaf(path: Path) -> str:
    """The first certificate of a file, which is the server's own; those after it also vouch for others."""
    try:
        before, end, _ = path.read_text(encoding="utf-8").partition(END)
    except (OSError, ValueError) as error:
        raise UserError(
            f"GENLOOM_TLS_CERT is {path}, which cannot be read; set it right or unset it."
        ) from error
    return f"{BEGIN}{before.rpartition(BEGIN)[2]}{end}\n"


def _own(settings: Settings) -> Path:
    return settings.home / "serve" / "certificate.pem"
