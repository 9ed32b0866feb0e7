"""The faulty servers: each mode as a client of its own sees it, and what was asked as they wrote it down."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_lab import cli
from banua_lab.faults import Answers, DnsFault, DnsMode, WebFault, WebMode, answer, read_question

if TYPE_CHECKING:
    from pathlib import Path

A, AAAA, TXT = 1, 28, 16
TABLE = {"known.test": ["192.0.2.7", "2001:db8::7"]}
HIJACK_TO = "192.0.2.66"


def query(name: str, kind: int = A, message_id: int = 0x1234, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", message_id, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def code_and_addresses(reply: bytes, asked: bytes) -> tuple[int, list[str]]:
    """Read a response the long way round, knowing the query that it repeats."""
    _, flags, questions, records, _, _ = struct.unpack_from("!6H", reply)
    assert flags & 0x8180 == 0x8180
    assert questions == 1
    assert reply[12 : len(asked)] == asked[12:]
    addresses, at = [], len(asked)
    for _ in range(records):
        pointer, kind, _, _, size = struct.unpack_from("!HHHIH", reply, at)
        assert pointer == 0xC00C
        data = reply[at + 12 : at + 12 + size]
        addresses.append(socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, data))
        at += 12 + size
    assert at == len(reply)
    return flags & 0xF, addresses


@pytest.mark.parametrize(
    ("mode", "name", "kind", "code", "addresses"),
    [
        ("table", "known.test", A, 0, ["192.0.2.7"]),
        ("table", "KNOWN.test", A, 0, ["192.0.2.7"]),
        ("table", "known.test", AAAA, 0, ["2001:db8::7"]),
        ("table", "known.test", TXT, 0, []),
        ("table", "unknown.test", A, 3, []),
        ("hijack", "known.test", A, 0, [HIJACK_TO]),
        ("hijack", "unknown.test", A, 0, [HIJACK_TO]),
        ("hijack", "known.test", AAAA, 0, []),
        ("nxdomain", "known.test", A, 3, []),
        ("servfail", "known.test", A, 2, []),
    ],
)
def test_one_answer_of_each_mode(mode: str, name: str, kind: int, code: int, addresses: list[str]) -> None:
    asked = query(name, kind)
    (reply,) = answer(read_question(asked), DnsMode(mode), Answers(TABLE, HIJACK_TO))
    assert reply[:2] == asked[:2]
    assert code_and_addresses(reply, asked) == (code, addresses)


def test_silence_is_no_message() -> None:
    assert answer(read_question(query("known.test")), DnsMode.SILENT, Answers(TABLE, HIJACK_TO)) == []


def test_what_is_truncated_over_udp_is_whole_over_tcp() -> None:
    asked = query("known.test")
    question, answers = read_question(asked), Answers(TABLE, HIJACK_TO)
    (short,) = answer(question, DnsMode.TRUNCATED, answers)
    (whole,) = answer(question, DnsMode.TRUNCATED, answers, over_tcp=True)
    assert (short[2] & 0x02, code_and_addresses(short, asked)) == (0x02, (0, []))
    assert (whole[2] & 0x02, code_and_addresses(whole, asked)) == (0, (0, ["192.0.2.7"]))


def test_a_stranger_comes_first_and_the_right_answer_after_it() -> None:
    asked = query("known.test")
    question, answers = read_question(asked), Answers(TABLE, HIJACK_TO)
    wrong, right = answer(question, DnsMode.WRONG_ID, answers)
    assert wrong[:2] == b"\xed\xcb"
    assert code_and_addresses(wrong, asked) == (0, [HIJACK_TO])
    assert right[:2] == b"\x12\x34"
    assert code_and_addresses(right, asked) == (0, ["192.0.2.7"])
    garbage, right_again = answer(question, DnsMode.GARBAGE, answers)
    assert garbage == b"\xff\x00not a message"
    assert right_again == right


def test_a_question_is_read_to_its_end() -> None:
    question = read_question(query("A.b-C.test", AAAA, 0xBEEF, flags=0))
    assert question[:4] == (0xBEEF, "a.b-c.test", AAAA, False)
    assert question.raw == b"\x01A\x03b-C\x04test\x00\x00\x1c\x00\x01"
    assert (question.type_name, question._replace(type_number=16).type_name) == ("AAAA", "TYPE16")


@given(st.binary(max_size=80))
def test_no_bytes_are_more_than_refused(message: bytes) -> None:
    try:
        question = read_question(message)
    except ValueError:
        return
    assert message[12 : 12 + len(question.raw)] == question.raw


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 11, query("known.test")[:-3], query("known.test", flags=0x8000), query("x" * 64 + ".test")],
    ids=["nothing", "half a header", "cut short", "a response", "a label too long"],
)
def test_what_is_no_query_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match="not a DNS query"):
        read_question(message)


def ask_udp(server: DnsFault, message: bytes, replies: int = 1, timeout_s: float = 10) -> list[bytes]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.sendto(message, (server.host, server.port))
        return [client.recv(512) for _ in range(replies)]


def ask_tcp(server: DnsFault, message: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=10) as client:
        client.sendall(len(message).to_bytes(2, "big") + message)
        with client.makefile("rb") as stream:
            return stream.read(int.from_bytes(stream.read(2), "big"))


def test_a_name_server_answers_over_udp_and_tcp_and_writes_down_what_it_was_asked(tmp_path: Path) -> None:
    asked, log = query("known.test"), tmp_path / "dns.jsonl"
    with DnsFault(DnsMode.TRUNCATED, TABLE, log_path=log) as server:
        (short,) = ask_udp(server, asked)
        assert short[2] & 0x02
        assert code_and_addresses(ask_tcp(server, asked), asked) == (0, ["192.0.2.7"])
        server.mode = DnsMode.GARBAGE
        garbage, right = ask_udp(server, asked, replies=2)
        assert garbage.startswith(b"\xff\x00")
        assert code_and_addresses(right, asked) == (0, ["192.0.2.7"])
        told = server.asked
    assert [(t["transport"], t["mode"], t["name"], t["type"], t["id"], t["peer"]) for t in told] == [
        ("udp", "truncated", "known.test", "A", 0x1234, "127.0.0.1"),
        ("tcp", "truncated", "known.test", "A", 0x1234, "127.0.0.1"),
        ("udp", "garbage", "known.test", "A", 0x1234, "127.0.0.1"),
    ]
    assert [json.loads(line) for line in log.read_text().splitlines()] == told
    assert [t["t_ns"] for t in told] == sorted(t["t_ns"] for t in told)


def test_a_silent_name_server_has_heard_the_question() -> None:
    with DnsFault(DnsMode.SILENT) as server:
        with pytest.raises(TimeoutError):
            ask_udp(server, query("known.test"), timeout_s=0.2)
        ask_udp_garbage = b"\x01\x02\x03"
        with pytest.raises(TimeoutError):
            ask_udp(server, ask_udp_garbage, timeout_s=0.2)
        first, second = server.asked
    assert (first["name"], first["mode"]) == ("known.test", "silent")
    assert (second["garbage"], "name" in second) == ("010203", False)


def get(server: WebFault, path: str, method: str = "GET", timeout_s: float = 10) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Location"), response.read()
    finally:
        connection.close()


def test_a_web_server_answers_by_its_mode_and_writes_down_what_it_was_asked(tmp_path: Path) -> None:
    log = tmp_path / "web.jsonl"
    with WebFault(body=b"known body", log_path=log) as server:
        login = f"http://127.0.0.1:{server.port}/login"
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert get(server, "/generate_204") == (204, None, b"")
        server.mode = WebMode.BODY
        assert get(server, "/") == (200, None, b"known body")
        assert get(server, "/", "HEAD") == (200, None, b"")
        server.mode = WebMode.PORTAL_REDIRECT
        assert get(server, "/generate_204") == (302, login, b"")
        assert b"<title>Login</title>" in get(server, "/login")[2]
        server.mode = WebMode.PORTAL_PAGE
        status, _, page = get(server, "/generate_204")
        assert (status, b"<title>Login</title>" in page) == (200, True)
        told = server.asked
    assert [(t["method"], t["path"], t["mode"]) for t in told] == [
        ("GET", "/generate_204", "204"),
        ("GET", "/", "200"),
        ("HEAD", "/", "200"),
        ("GET", "/generate_204", "portal-redirect"),
        ("GET", "/login", "portal-redirect"),
        ("GET", "/generate_204", "portal-page"),
    ]
    assert {t["host"] for t in told} == {f"127.0.0.1:{server.port}"}
    assert [json.loads(line) for line in log.read_text().splitlines()] == told


def test_a_silent_web_server_takes_the_request_and_ends_when_it_is_told_to() -> None:
    with WebFault(WebMode.SILENT) as server:
        with pytest.raises(TimeoutError):
            get(server, "/", timeout_s=0.2)
        assert [t["path"] for t in server.asked] == ["/"]


def test_a_port_that_is_taken_is_an_error() -> None:
    with DnsFault() as dns, WebFault() as web:
        with pytest.raises(OSError, match="Address already in use"):
            DnsFault(port=dns.port)
        with pytest.raises(OSError, match="Address already in use"):
            WebFault(port=dns.port)
        assert dns.port != web.port


@pytest.mark.parametrize(
    ("words", "says"), [(["dns", "--mode", "hijack"], "dns"), (["web", "--mode", "portal-page"], "web")]
)
def test_the_command_serves_until_it_is_told_to_stop(words: list[str], says: str) -> None:
    code = "import sys; from banua_lab.cli import main; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", code, "fault", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{says} on 127.0.0.1 port ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def choices(kind: str) -> list[str]:
    """Return the modes that the command line offers."""
    parser: Any = cli._parser()
    for word in ("fault", kind):
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = commands.choices[word]
    (mode,) = (a for a in parser._actions if a.dest == "mode")
    return list(mode.choices)


def test_the_command_line_offers_every_mode() -> None:
    assert choices("dns") == [mode.value for mode in DnsMode]
    assert choices("web") == [mode.value for mode in WebMode]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dns", "--answer", "known.test"], "argument --answer: '' does not appear to be an IPv4 or IPv6 address"),
        (["web", "--port", "65536"], "argument --port: '65536' is not a whole number within 0…65535"),
        (["web", "--host", "here"], "argument --host: 'here' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_an_argument_that_cannot_be_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["fault", *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(told)
