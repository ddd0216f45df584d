"""Certificates and keys are looked at before a server starts; clients believe the server's own, or an authority."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from components.errors import UserError
from components.serving import tls
from components.settings import Settings, read_settings

AUTHORITY = trustme.CA()


def issued(folder: Path, name: str = "127.0.0.1") -> Settings:
    """Settings with a certificate for `name`, the authority's behind it in the file."""
    own = AUTHORITY.issue_cert(name)
    own.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(own.cert_chain_pems[0].bytes() + AUTHORITY.cert_pem.bytes())
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "serve").mkdir()
    return Settings(home=folder, tls_cert=folder / "cert.pem", tls_key=folder / "key.pem")


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return issued(tmp_path, "genloom.example.com")


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A server of the certificate of `settings`, which is not for the name that it is asked by."""
    assert settings.tls_cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_server_s_own_certificate_is_believed_by_any_name(
    settings: Settings, url: str, tmp_path: Path
) -> None:
    tls.check(settings)
    tls.publish(settings)
    assert (tmp_path / "serve" / "certificate.pem").read_text().count("BEGIN") == 1
    elsewhere = Settings(home=tmp_path)  # a shell without the variables of the server
    assert httpx.get(url, verify=tls.trust(elsewhere)).status_code == 200
    tls.withdraw(settings)
    assert httpx.get(url, verify=tls.trust(settings)).status_code == 200
    for distrustful in (elsewhere, Settings(home=tmp_path, tls_ca=tmp_path / "ca.pem")):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=tls.trust(distrustful))


def test_another_certificate_of_the_same_authority_is_not_believed(url: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url, verify=tls.trust(issued(other, "genloom.example.com")))


def test_an_authority_is_believed_by_the_right_name(tmp_path: Path) -> None:
    settings = issued(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert settings.tls_cert is not None
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        trusting = tls.trust(Settings(home=tmp_path, tls_ca=tmp_path / "ca.pem"))
        assert httpx.get(f"https://127.0.0.1:{server.server_address[1]}", verify=trusting).status_code == 200
        thread.join()


def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    good = issued(tmp_path)
    other = AUTHORITY.issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(tmp_path / "other.pem")
    locked = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "nonsense.pem").write_bytes(b"\xff\x00 no PEM")
    for change, said in (
        ({"tls_cert": tmp_path / "none.pem"}, "GENLOOM_TLS_CERT is .*none.pem, which cannot be read"),
        ({"tls_key": tmp_path}, "GENLOOM_TLS_KEY is .* cannot be read .is a directory"),
        ({"tls_key": tmp_path / "other.pem"}, "other.pem is not that of the certificate .*cert.pem; set"),
        ({"tls_key": tmp_path / "locked.pem"}, "locked.pem is no private key in PEM without a password; set"),
        ({"tls_key": tmp_path / "nonsense.pem"}, "nonsense.pem is no private key in PEM"),
        ({"tls_cert": tmp_path / "nonsense.pem"}, "nonsense.pem is no certificate in PEM; set"),
        ({"tls_cert": tmp_path / "key.pem"}, "key.pem is no certificate in PEM; set"),
    ):
        with pytest.raises(UserError, match=said) as wrong:
            tls.check(good.model_copy(update=change))
        assert "\n" not in str(wrong.value)
    with pytest.raises(
        UserError, match=r"GENLOOM_TLS_CA is .*nonsense.pem, which holds no certificate in PEM"
    ):
        tls.trust(Settings(home=tmp_path, tls_ca=tmp_path / "nonsense.pem"))
    tls.check(Settings(home=tmp_path))


def test_certificate_and_key_are_set_together_and_lie_below_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLOOM_TLS_CERT", "cert.pem")
    with pytest.raises(UserError, match="only one is set; set both, or neither"):
        read_settings(tmp_path)
    monkeypatch.setenv("GENLOOM_TLS_KEY", "key.pem")
    settings = read_settings(tmp_path)
    assert (settings.tls_cert, settings.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("GENLOOM_TLS_KEY", "https://example.com/key.pem")
    with pytest.raises(UserError, match="it must be a file, not a URL"):
        read_settings(tmp_path)
