"""Requests for a page to servers that answer rightly, wrongly, slowly or not at all, over plain HTTP and TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_lab.ca import Authority
from banua_lab.faults import WebFault, WebMode
from banua_probe.config import WebTarget
from banua_probe.sensors.http_reply import MAX_HEAD_BYTES, Body, parse_head
from banua_probe.sensors.web import Limits, fetch, no_way_out, verdict
from banua_wire.rows import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from banua_wire.rows import Row

SHORT = Limits(whole_s=0.6, phase_s=0.3)
OK = b"HTTP/1.1 200 OK\r\n"
PAGE = OK + b"Content-Length: 5\r\n\r\nhello"
PHASES = {"dns_us", "connect_us", "tls_us", "first_byte_us", "total_us"}


def run(
    url: str,
    interface: str = "",
    resolve: Any = None,
    limits: Limits | None = None,
    no_way: str = "",
    **settings: Any,
) -> Row:
    seams = {"resolve": resolve} if resolve else {}
    target = WebTarget(target="t", url=url, **settings)
    row = fetch(target, lambda: 77, interface=interface, way_out=lambda _: no_way, limits=limits, **seams)
    checked(row)
    assert (row.kind, row.boottime_ms) == ("web", 77)
    return row


def without_times(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.values.items() if name not in PHASES}


Answer = bytes | tuple[bytes, ...] | None


class Server:
    """A server that takes one connection after another, reads a request and sends its answer as it is told.

    A tuple is sent piece by piece, 50 ms apart; None is silence until the client leaves. `requests` is what it read.
    """

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None, *, reset: bool = False) -> None:
        self.requests: list[bytes] = []
        self._answer, self._context, self._reset = answer, context, reset
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port: int = self._listener.getsockname()[1]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while not self._done.is_set():
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            peer.settimeout(3)
            with contextlib.suppress(OSError):  # the client may leave at any time
                if self._context:
                    peer = self._context.wrap_socket(peer, server_side=True)
                self._talk(peer)
            peer.close()

    def _talk(self, peer: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            more = peer.recv(4096)
            if not more:
                return
            request += more
        self.requests.append(request)
        if self._answer is None:
            peer.recv(1)
            return
        for piece in self._answer if isinstance(self._answer, tuple) else (self._answer,):
            peer.sendall(piece)
            if isinstance(self._answer, tuple) and self._done.wait(0.05):
                return
        if self._reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def served(authority: Authority) -> ssl.SSLContext:
    """What a server with a certificate for localhost and 127.0.0.1 needs."""
    return context_for(authority, "server", ["localhost", "127.0.0.1"])


def context_for(authority: Authority, name: str, hosts: list[str]) -> ssl.SSLContext:
    credential = authority.issue_server(name, hosts)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credential.cert, credential.key)
    return context


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, but on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def at(*addresses: tuple[str, int]) -> Callable[[str, int], list[Any]]:
    """A resolver that gives those addresses for every name."""
    return lambda _host, _port: [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in addresses
    ]


# what is measured


def test_the_expected_answer_is_ok_and_its_phases_add_up() -> None:
    with WebFault(WebMode.NO_CONTENT) as server:
        before = time.monotonic_ns()
        row = run(f"http://page.test:{server.port}/generate_204?x=1", resolve=at(("127.0.0.1", server.port)))
        took_us = (time.monotonic_ns() - before) // 1000
    assert without_times(row) == {
        "target": "t", "outcome": "measured", "status": 204, "ok": 1, "portal": 0, "address": "127.0.0.1",
        "body_bytes": 0,
    }  # fmt: skip
    times: dict[str, Any] = {name: row.values[name] for name in PHASES if name in row.values}
    assert set(times) == PHASES - {"tls_us"}
    assert times["dns_us"] + times["connect_us"] + times["first_byte_us"] <= times["total_us"] <= took_us
    [asked] = server.asked
    assert (asked["method"], asked["path"], asked["host"]) == (
        "GET", "/generate_204?x=1", f"page.test:{server.port}",
    )  # fmt: skip


def test_the_request_is_small_and_closes() -> None:
    with Server(PAGE) as server:
        run(server.url, expect_status=200)
    [request] = server.requests
    assert (
        request
        == (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUser-Agent: sinyal-banua\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
    )


def test_an_address_needs_no_lookup_and_has_no_time_of_one() -> None:
    with Server(PAGE) as server:
        row = run(server.url, expect_status=200)
    assert "dns_us" not in row.values
    assert row.values["ok"] == 1


def test_each_phase_has_the_time_that_it_took() -> None:
    def slow(_host: str, _port: int) -> list[Any]:
        time.sleep(0.05)
        return at(("127.0.0.1", server.port))("", 0)

    with Server((b"", OK, b"\r\n", b"hello")) as server:
        row = run("http://page.test/", resolve=slow, expect_status=200)
    values: dict[str, Any] = row.values
    assert 50_000 <= values["dns_us"] < 1_000_000
    assert values["connect_us"] < 50_000
    assert 40_000 <= values["first_byte_us"] < 1_000_000
    assert values["total_us"] >= 50_000 + 3 * 50_000


@pytest.mark.parametrize(("text", "ok"), [("ell", 1), ("", 1), ("Hello", 0)])
def test_a_page_has_to_contain_the_expected_text(text: str, ok: int) -> None:
    with WebFault(WebMode.BODY, body=b"hello") as server:
        values = run(server.url, expect_status=200, expect_text=text).values
    assert (values["ok"], values["body_bytes"], values["outcome"]) == (ok, 5, "measured")
    assert values.get("reason") == (None if ok else "without the expected text")
    assert values.get("portal") == (0 if ok and text else None), "nothing to compare with is no proof of no portal"


def test_a_portal_that_sends_the_reader_elsewhere_is_one() -> None:
    with Server(b"HTTP/1.1 302 Found\r\nLocation: http://Login.Portal.test/x?y\r\nContent-Length: 0\r\n\r\n") as server:
        row = run(server.url)
    assert without_times(row) == {
        "target": "t", "outcome": "measured", "status": 302, "ok": 0, "portal": 1, "location": "login.portal.test",
        "reason": "status 302, not 204", "address": "127.0.0.1", "body_bytes": 0,
    }  # fmt: skip


def test_a_portal_in_the_place_of_another_host_is_one() -> None:
    with WebFault(WebMode.PORTAL_REDIRECT) as server:
        row = run(f"http://page.test:{server.port}/", resolve=at(("127.0.0.1", server.port)))
    assert (row.values["portal"], row.values["location"], row.values["ok"]) == (1, "127.0.0.1", 0)


def test_a_login_page_where_nothing_belongs_is_a_portal() -> None:
    with WebFault(WebMode.PORTAL_PAGE) as server:
        row = run(server.url)
    assert (row.values["portal"], row.values["status"], row.values["ok"]) == (1, 200, 0)
    assert row.values["body_bytes"] > 0  # type: ignore[operator]


@pytest.mark.parametrize(("head", "expect", "portal"), [
    ("204 No Content", 204, 0),
    ("511 Network Authentication Required", 204, 1),
    ("301 Moved\r\nLocation: https://other.test/", 204, 1),
    ("303 See\r\nLocation: //other.test/", 204, 1),
    ("307 Moved\r\nLocation: http://page.test:8080/login", 204, 1),
    ("302 Found\r\nLocation: /login", 204, 1),
    ("302 Found\r\nLocation: http://[bad/", 204, 1),
    ("302 Found", 204, 1),
    ("307 Moved\r\nLocation: http://page.test:8080/login", 200, None),
    ("302 Found\r\nLocation: http://[bad/", 200, None),
    ("302 Found\r\nLocation: http://other.test/", 302, None),
    ("200 OK", 200, None),
    ("200 OK\r\nContent-Length: 0", 204, None),
    ("200 OK", 204, 1),
    ("404 Not Found", 204, None),
    ("500 Oops", 200, None),
])  # fmt: skip
def test_what_is_a_portal_and_what_nobody_can_tell(head: str, expect: int, portal: int | None) -> None:
    answer = parse_head(f"HTTP/1.1 {head}".encode())
    body = Body(answer, 1000)
    body.feed(b"<html>")
    body.whole = True
    target = WebTarget(target="t", url="http://page.test/", expect_status=expect)
    assert verdict(target, answer, body).get("portal") == portal
    secured = WebTarget(target="t", url="https://page.test/", expect_status=expect)
    proven = 0 if answer.status == expect else None
    assert verdict(secured, answer, body).get("portal") == proven, "TLS proves who answered"


@pytest.mark.parametrize(("answer", "body_bytes"), [
    (PAGE + b"more", 5),
    (OK + b"\r\nuntil the end", 13),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 5),
    ((OK, b"Transfer-Enc", b"oding: chunked\r\n\r\n3\r", b"\nh", b"el\r\n0", b"\r\n\r\n"), 3),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PAGE, 5),
    (b"HTTP/1.0 200\nContent-Length: 2\n\nhi", 2),
])  # fmt: skip
def test_bodies_of_every_framing_are_counted(answer: Answer, body_bytes: int) -> None:
    with Server(answer) as server:
        values = run(server.url, expect_status=200).values
    assert (values["ok"], values["body_bytes"], values["status"]) == (1, body_bytes, 200)


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 99999\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_no_more_of_a_body_is_read_than_was_allowed(framing: bytes) -> None:
    start = b"1869f\r\n" if b"chunked" in framing else b""
    with Server(OK + framing + b"\r\n" + start + b"x" * 99_999) as server:
        values = run(server.url, expect_status=200, max_kb=2).values
    assert (values["ok"], values["body_bytes"]) == (1, 2000)


@pytest.mark.parametrize(("answer", "reason", "limits"), [
    (OK + b"Content-Length: 9\r\n\r\nhello", "cut short: the connection was closed", None),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello", "cut short: the connection was closed", None),
    (OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", "malformed chunks", None),
    ((OK, b"Content-Length: 9\r\n\r\nhello", *[b""] * 30), "timed out after 0.", SHORT),
])  # fmt: skip
def test_a_body_that_is_cut_short_is_measured_but_not_ok(answer: Answer, reason: str, limits: Limits | None) -> None:
    with Server(answer) as server:
        values = run(server.url, expect_status=200, limits=limits).values
    assert (values["outcome"], values["status"], values["ok"], values["phase"]) == ("measured", 200, 0, "body")
    assert str(values["reason"]).startswith(reason)
    assert "total_us" not in values
    assert "first_byte_us" in values
    assert "portal" not in values


def test_a_reset_in_the_body_is_told() -> None:
    with Server((OK + b"Content-Length: 9\r\n\r\nhello",), reset=True) as server:
        values = run(server.url, expect_status=200).values
    assert (values["outcome"], values["phase"], values["reason"]) == ("measured", "body", "connection reset by peer")


@pytest.mark.parametrize("drip", [
    (OK, *[b"X: y\r\n"] * 40),
    (OK + b"\r\n", *[b"x"] * 40),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 40),
], ids=["head", "body", "chunks"])  # fmt: skip
def test_a_server_that_drips_does_not_outlast_the_deadline(drip: tuple[bytes, ...]) -> None:
    with Server(drip) as server:
        before = time.monotonic()
        values = run(server.url, limits=SHORT).values
        assert 0.5 < time.monotonic() - before < 1.2
    assert str(values["reason"]).startswith("timed out after 0.")
    assert values["outcome"] == ("measured" if "status" in values else "failed")


# what failed


def test_silence_fails_in_the_phase_of_the_first_byte() -> None:
    with WebFault(WebMode.SILENT) as server:
        row = run(server.url, limits=SHORT)
    assert without_times(row) == {
        "target": "t", "outcome": "failed", "phase": "first_byte", "reason": "timed out after 0.3 s",
        "address": "127.0.0.1",
    }  # fmt: skip
    assert set(row.values) & PHASES == {"connect_us"}
    assert len(server.asked) == 1


@pytest.mark.parametrize(("answer", "reason"), [
    (b"", "closed without an answer"),
    (OK + b"Content-", "closed without an answer"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP answer: 'SSH-2.0-OpenSSH'"),
    (b"HTTP/1.1 999 What\r\n\r\n", "not an HTTP answer: 'HTTP/1.1 999 What'"),
    (b"HTTP/1.1 20\xb2 OK\r\n\r\n", "not an HTTP answer: 'HTTP/1.1 20\\xb2 OK'"),
    (OK + b"x" * (MAX_HEAD_BYTES + 1), "head too long"),
])  # fmt: skip
def test_an_answer_without_a_head_fails(answer: bytes, reason: str) -> None:
    with Server(answer) as server:
        values = run(server.url).values
    assert (values["outcome"], values["phase"], values["reason"]) == ("failed", "first_byte", reason)
    assert "status" not in values


def test_a_refused_connect_fails(closed_port: int) -> None:
    assert run(f"http://127.0.0.1:{closed_port}/").values == {
        "target": "t", "outcome": "failed", "phase": "connect", "reason": "127.0.0.1: connection refused",
    }  # fmt: skip


def test_a_connect_that_nobody_answers_fails_in_time() -> None:
    """A full accept queue: the kernel drops the SYN, as a dead link would."""
    with socket.socket() as server, contextlib.ExitStack() as fillers:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        time.sleep(0.05)
        before = time.monotonic()
        values = run(f"http://127.0.0.1:{server.getsockname()[1]}/", limits=SHORT).values
        assert 0.25 < time.monotonic() - before < 1
    assert (values["outcome"], values["phase"], values["reason"]) == ("failed", "connect", "127.0.0.1: timed out")


def test_the_second_address_is_tried_when_the_first_refuses(closed_port: int) -> None:
    with Server(PAGE) as server:
        resolve = at(("127.0.0.2", closed_port), ("127.0.0.1", server.port))
        values = run("http://page.test/", resolve=resolve, expect_status=200).values
    assert (values["ok"], values["address"]) == (1, "127.0.0.1")


def test_of_many_addresses_two_are_tried_one_of_each_family(closed_port: int) -> None:
    resolve = at(("127.0.0.1", closed_port), ("127.0.0.2", closed_port), ("::1", closed_port))
    values = run("http://page.test/", resolve=resolve).values
    assert (values["outcome"], values["phase"]) == ("failed", "connect")
    assert "127.0.0.2" not in str(values["reason"])
    assert str(values["reason"]).startswith("127.0.0.1: connection refused")


def failing(error: Exception) -> Callable[[str, int], list[Any]]:
    def resolve(_host: str, _port: int) -> list[Any]:
        raise error

    return resolve


@pytest.mark.parametrize("error", [
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("name or service not known"),
])  # fmt: skip
def test_a_name_that_does_not_resolve_fails(error: Exception) -> None:
    assert run("http://nosuch.invalid/", resolve=failing(error)).values == {
        "target": "t", "outcome": "failed", "phase": "dns", "reason": "name or service not known",
    }  # fmt: skip


def test_a_name_without_an_address_fails() -> None:
    values = run("http://page.test/", resolve=at()).values
    assert (values["phase"], values["reason"]) == ("dns", "name without an address")


def test_a_resolver_that_hangs_does_not_outlast_its_phase() -> None:
    let_go = threading.Event()

    def hang(_host: str, _port: int) -> list[Any]:
        let_go.wait(5)
        return []

    before = time.monotonic()
    values = run("http://page.test/", resolve=hang, limits=SHORT).values
    assert time.monotonic() - before < 1
    let_go.set()
    assert (values["outcome"], values["phase"], values["reason"]) == ("failed", "dns", "timed out after 0.3 s")


# TLS


def test_a_page_over_tls_is_measured_with_the_time_of_the_handshake(
    authority: Authority, served: ssl.SSLContext
) -> None:
    with Server(PAGE, served) as server:
        values: dict[str, Any] = run(server.url, ca_file=str(authority.cafile), expect_status=200).values
    assert (values["outcome"], values["ok"], values["portal"], values["body_bytes"]) == ("measured", 1, 0, 5)
    assert 0 < values["tls_us"] < values["total_us"]
    assert len(server.requests) == 1


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path, served: ssl.SSLContext) -> None:
    other = Authority.create(tmp_path)
    with Server(PAGE, served) as server:
        values = run(server.url, ca_file=str(other.cafile)).values
    assert (values["outcome"], values["phase"]) == ("failed", "tls")
    assert str(values["reason"]).startswith("certificate not accepted: ")
    assert server.requests == [], "nothing was asked of a stranger"


def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    with Server(PAGE, context_for(authority, "other", ["other.test"])) as server:
        url = f"https://page.test:{server.port}/"
        values = run(url, ca_file=str(authority.cafile), resolve=at(("127.0.0.1", server.port))).values
    assert (values["outcome"], values["phase"]) == ("failed", "tls")
    assert "page.test" in str(values["reason"])
    assert server.requests == []


def test_a_certificate_error_of_any_length_leaves_a_row(authority: Authority) -> None:
    """A portal's certificate for a long host: the row that shows it has to be one that the outbox takes."""
    host = ".".join(["a" * 60] * 3) + ".test"
    with Server(PAGE, context_for(authority, "portal", ["portal.test"])) as server:
        url = f"https://{host}:{server.port}/"
        values = run(url, ca_file=str(authority.cafile), resolve=at(("127.0.0.1", server.port))).values
    assert (values["outcome"], values["phase"], len(str(values["reason"]))) == ("failed", "tls", 200)
    assert str(values["reason"]).startswith("certificate not accepted: ")


def test_the_systems_authorities_do_not_know_ours(served: ssl.SSLContext) -> None:
    with Server(PAGE, served) as server:
        values = run(server.url).values
    assert (values["outcome"], values["phase"]) == ("failed", "tls")


def test_a_plain_server_behind_https_fails_in_the_handshake(authority: Authority) -> None:
    with WebFault(WebMode.BODY) as server:
        values = run(f"https://127.0.0.1:{server.port}/", ca_file=str(authority.cafile), limits=SHORT).values
    assert (values["outcome"], values["phase"]) == ("failed", "tls")
    assert "tls_us" not in values


def test_a_handshake_that_nobody_answers_fails_in_time(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = time.monotonic()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        values = run(url, ca_file=str(authority.cafile), limits=SHORT).values
        assert time.monotonic() - before < 1
    assert (values["phase"], values["reason"]) == ("tls", "timed out after 0.3 s")


# what never left this machine


@pytest.mark.parametrize(("addresses", "interface", "reason"), [
    ([("127.0.0.1", 9)], "nosuch0", "not sent: no interface nosuch0"),
    ([("255.255.255.255", 9)], "", "not sent: Network is unreachable"),
    ([("255.255.255.255", 9), ("255.255.255.255", 8)], "", "not sent: Network is unreachable"),
])  # fmt: skip
def test_what_never_left_this_machine_is_not_measured(
    addresses: list[tuple[str, int]], interface: str, reason: str
) -> None:
    values = run("http://127.0.0.1/", interface=interface, resolve=at(*addresses)).values
    bound = {"interface": interface} if interface else {}
    assert values == {"target": "t", "outcome": "not_measured", "reason": reason} | bound


def test_one_address_that_was_tried_is_enough_to_have_failed(closed_port: int) -> None:
    resolve = at(("255.255.255.255", 9), ("127.0.0.1", closed_port))
    values = run("http://page.test/", resolve=resolve).values
    assert (values["outcome"], values["reason"]) == ("failed", "127.0.0.1: connection refused")


@pytest.mark.parametrize("resolve", [
    failing(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")), failing(TimeoutError()), at(),
], ids=["again", "timed out", "no address"])  # fmt: skip
def test_a_lookup_that_fails_while_there_is_no_way_out_is_not_measured(resolve: Any) -> None:
    values = run("http://page.test/", resolve=resolve, no_way="Network is unreachable").values
    assert values == {"target": "t", "outcome": "not_measured", "reason": "not sent: Network is unreachable"}


def test_without_a_way_out_only_the_lookup_is_excused(closed_port: int) -> None:
    values = run(f"http://127.0.0.1:{closed_port}/", no_way="Network is unreachable").values
    assert (values["outcome"], values["phase"]) == ("failed", "connect")


def test_no_way_leads_out_by_an_interface_that_is_not_there() -> None:
    assert no_way_out("nosuch0") == "no interface nosuch0"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_not_measured(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    values = run("https://127.0.0.1:9/", ca_file=str(file)).values
    assert values["outcome"] == "not_measured"
    assert str(values["reason"]).startswith("not sent: ca_file: ")


def test_a_request_bound_to_an_interface_names_it_and_its_modem() -> None:
    with WebFault(WebMode.NO_CONTENT) as server:
        values = run(server.url, interface="lo", modem="telkomsel").values
    assert (values["interface"], values["modem"], values["ok"]) == ("lo", "telkomsel", 1)


@given(st.binary(max_size=120), st.sampled_from([b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n"]))
def test_a_server_that_sends_anything_gets_a_row_of_the_dictionary(answer: bytes, start: bytes) -> None:
    with Server(start + answer) as server:
        values = run(server.url, limits=SHORT).values
    assert values["outcome"] in {"measured", "failed"}
