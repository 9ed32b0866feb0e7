from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from banua_lab.ca import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from banua_lab.ca import Credential


def greet(authority: Authority, server: Credential, client: Credential, host: str) -> str:
    """Shake hands over TLS with certificates on both sides; return the client's name as the server saw it."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.cert, server.key)
    serving.load_verify_locations(authority.cafile)
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.load_verify_locations(authority.cafile)
    calling.load_cert_chain(client.cert, client.key)
    for context in (serving, calling):
        context.verify_flags |= ssl.VERIFY_X509_STRICT

    seen: list[str] = []
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, serving.wrap_socket(theirs, server_side=True) as tls:
            certificate = tls.getpeercert(binary_form=True)
            assert certificate
            seen.append(x509.load_der_x509_certificate(certificate).subject.rfc4514_string())
            tls.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, calling.wrap_socket(ours, server_hostname=host) as tls:
            tls.recv(5)
    finally:
        thread.join()
    return seen[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_both_sides_are_verified_strictly(tmp_path: Path, host: str) -> None:
    authority = Authority.create(tmp_path / "ca")
    client = authority.issue_client("hst-001")
    assert greet(authority, authority.issue_server("broker"), client, host) == "CN=hst-001"


def test_a_server_is_only_who_it_says(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    server = authority.issue_server("broker", hosts=["broker.example"])
    calling = ssl.create_default_context(cafile=str(authority.cafile))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.cert, server.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = serving.wrap_bio(outgoing, incoming, server_side=True)
    here = calling.wrap_bio(incoming, outgoing, server_hostname="localhost")
    for side in (here, there):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        here.do_handshake()


def test_keys_are_for_the_owner_only_also_when_issued_again(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    first = authority.issue_client("hst-001")
    first.key.chmod(0o644)
    again = authority.issue_client("hst-001")
    assert again.key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in authority.cafile.read_bytes()
