"""Servers that answer wrongly on purpose: a name server and a web server, each with its modes.

They write down what they were asked before they answer: that is the truth of a trial. The wire format of DNS is RFC
1035's, and nothing here comes from the code under test.
"""

import contextlib
import ipaddress
import json
import signal
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

_HEADER: Final = struct.Struct("!6H")
_TYPES: Final = {1: "A", 28: "AAAA"}
_TTL_S: Final = 60
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080
_SERVFAIL: Final = 2
_NXDOMAIN: Final = 3
_GARBAGE: Final = b"\xff\x00not a message"
_POLL_S: Final = 0.02
_LOGIN_PATH: Final = "/login"
_LOGIN_PAGE: Final = b"<html><title>Login</title><form method=post><input name=voucher></form></html>\n"


class DnsMode(StrEnum):
    """How the name server answers.

    `TABLE` is right: what it knows, NXDOMAIN for the rest. `HIJACK` gives one address for every name that is asked for
    an A record, and nothing for other types. `TRUNCATED` answers over UDP with the TC bit and no record, over TCP
    fully. `WRONG_ID` and `GARBAGE` send a datagram that is no answer first and the right one after it; over TCP they
    are as `TABLE`.
    """

    TABLE = "table"
    HIJACK = "hijack"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    SILENT = "silent"
    TRUNCATED = "truncated"
    WRONG_ID = "wrong-id"
    GARBAGE = "garbage"


class WebMode(StrEnum):
    """How the web server answers, whatever the path.

    `PORTAL_REDIRECT` answers 302 to its login page and `PORTAL_PAGE` 200 with that page: two kinds of captive portal.
    `SILENT` takes the request and never answers.
    """

    NO_CONTENT = "204"
    BODY = "200"
    PORTAL_REDIRECT = "portal-redirect"
    PORTAL_PAGE = "portal-page"
    SILENT = "silent"


class Question(NamedTuple):
    """One question of a DNS message: `name` in small letters without the last dot, `raw` as it was sent."""

    message_id: int
    name: str
    type_number: int
    recursion_desired: bool
    raw: bytes

    @property
    def type_name(self) -> str:
        """``A``, ``AAAA``, or ``TYPE16`` for a type that is not answered."""
        return _TYPES.get(self.type_number, f"TYPE{self.type_number}")


class Answers(NamedTuple):
    """What a name server knows: addresses of names, and the address it gives when it hijacks."""

    table: Mapping[str, Sequence[str]]
    hijack_to: str


def read_question(message: bytes) -> Question:
    """Return the first question of a query; raises `ValueError` for what is none."""
    try:
        message_id, flags, questions, *_ = _HEADER.unpack_from(message)
        at, labels = _HEADER.size, []
        while length := message[at]:
            labels.append(message[at + 1 : at + 1 + length].decode("ascii").lower())
            at += 1 + length
        (type_number,) = struct.unpack_from("!H", message, at + 1)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a DNS query: {error}") from error
    raw = message[_HEADER.size : at + 5]
    if flags & _RESPONSE or questions != 1 or any(len(label) > 63 for label in labels):  # noqa: PLR2004 (RFC 1035)
        raise ValueError("not a DNS query with one question")
    return Question(message_id, ".".join(labels), type_number, bool(flags & _RECURSION_DESIRED), raw)


def answer(question: Question, mode: DnsMode, answers: Answers, *, over_tcp: bool = False) -> list[bytes]:
    """Return the messages that a server in `mode` sends, in their order."""
    right = _right_answer(question, answers.table)
    match mode:
        case DnsMode.SILENT:
            return []
        case DnsMode.HIJACK:
            return [_message(question, [answers.hijack_to])]
        case DnsMode.NXDOMAIN:
            return [_message(question, [], code=_NXDOMAIN)]
        case DnsMode.SERVFAIL:
            return [_message(question, [], code=_SERVFAIL)]
        case DnsMode.TRUNCATED if not over_tcp:
            return [_message(question, [], flags=_TRUNCATED)]
        case DnsMode.WRONG_ID if not over_tcp:
            stranger = question._replace(message_id=question.message_id ^ 0xFFFF)
            return [_message(stranger, [answers.hijack_to]), right]
        case DnsMode.GARBAGE if not over_tcp:
            return [_GARBAGE, right]
    return [right]


def _right_answer(question: Question, table: Mapping[str, Sequence[str]]) -> bytes:
    if question.name not in table:
        return _message(question, [], code=_NXDOMAIN)
    return _message(question, table[question.name])


def _message(question: Question, addresses: Sequence[str], *, code: int = 0, flags: int = 0) -> bytes:
    """Return a response with those of the addresses that are of the type asked for."""
    packed = [ipaddress.ip_address(address) for address in addresses]
    fitting = [address.packed for address in packed if question.type_name == ("A" if address.version == 4 else "AAAA")]  # noqa: PLR2004
    flags |= _RESPONSE | _RECURSION_AVAILABLE | code | (_RECURSION_DESIRED if question.recursion_desired else 0)
    header = _HEADER.pack(question.message_id, flags, 1, len(fitting), 0, 0)
    # each record's name is a pointer to the question's
    records = (struct.pack("!HHHIH", 0xC00C, question.type_number, 1, _TTL_S, len(data)) + data for data in fitting)
    return b"".join((header, question.raw, *records))


class Record:
    """What a server was asked: in memory, and as JSON lines in a file where there is one."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._lock = threading.Lock()
        self._asked: list[dict[str, Any]] = []
        self._path = None if path is None else Path(path)

    def add(self, **told: Any) -> None:
        """Write one question down, with the time on CLOCK_MONOTONIC."""
        entry = {"t_ns": time.monotonic_ns(), **told}
        with self._lock:
            self._asked.append(entry)
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")

    def all(self) -> list[dict[str, Any]]:
        """Return what was asked until now."""
        with self._lock:
            return list(self._asked)


class _Served:
    """What both kinds of server have in common: threads of their own while the context is entered."""

    def __init__(self, log_path: str | Path | None) -> None:
        self._record = Record(log_path)
        self._servers: list[socketserver.BaseServer] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for server in self._servers:
            thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What was asked until now, oldest first."""
        return self._record.all()


class DnsFault(_Served):
    """A name server over UDP and TCP on one `port` (0: a free one).

    `table` has the addresses of names, IPv4 and IPv6. `mode` may be changed while it runs. `asked` has ``t_ns``,
    ``transport``, ``peer``, ``name``, ``type``, ``id`` and the ``mode`` it was answered in; a message that is no query
    has ``garbage`` instead of name, type and id. Raises `OSError` when the port is taken.
    """

    def __init__(
        self,
        mode: DnsMode = DnsMode.TABLE,
        table: Mapping[str, Sequence[str]] | None = None,
        *,
        hijack_to: str = "192.0.2.1",
        host: str = "127.0.0.1",
        port: int = 0,
        log_path: str | Path | None = None,
    ) -> None:
        super().__init__(log_path)
        self.mode = mode
        self._answers = Answers({name.lower().rstrip("."): known for name, known in (table or {}).items()}, hijack_to)
        tcp = _TcpServer((host, port), _family(host), self)
        self.host, self.port = host, int(tcp.server_address[1])
        self._servers = [tcp]
        try:
            self._servers.append(_UdpServer((host, self.port), _family(host), self))
        except OSError:
            tcp.server_close()
            raise

    def replies(self, message: bytes, transport: str, peer: str) -> list[bytes]:
        """Write a message down and return what to send for it."""
        mode = self.mode
        try:
            question = read_question(message)
        except ValueError:
            self._record.add(transport=transport, peer=peer, garbage=message.hex(), mode=mode)
            return []
        self._record.add(
            transport=transport,
            peer=peer,
            name=question.name,
            type=question.type_name,
            id=question.message_id,
            mode=mode,
        )
        return answer(question, mode, self._answers, over_tcp=transport == "tcp")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _UdpServer(socketserver.UDPServer):
    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, dns: DnsFault) -> None:
        self.address_family = family
        self.dns = dns
        super().__init__(address, _UdpHandler)


class _UdpHandler(socketserver.BaseRequestHandler):
    server: _UdpServer

    def handle(self) -> None:
        message, listener = self.request
        for reply in self.server.dns.replies(message, "udp", self.client_address[0]):
            listener.sendto(reply, self.client_address)


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, dns: DnsFault) -> None:
        self.address_family = family
        self.dns = dns
        super().__init__(address, _TcpHandler)


class _TcpHandler(socketserver.StreamRequestHandler):
    """Answers one connection; each message is preceded by its length in two bytes."""

    server: _TcpServer
    timeout = 10

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client that leaves is no fault of ours
            while length := self.rfile.read(2):
                message = self.rfile.read(int.from_bytes(length, "big"))
                for reply in self.server.dns.replies(message, "tcp", self.client_address[0]):
                    self.wfile.write(len(reply).to_bytes(2, "big") + reply)


class WebFault(_Served):
    """A web server on `port` (0: a free one).

    `mode` may be changed while it runs. `asked` has ``t_ns``, ``peer``, ``method``, ``path``, ``host`` (of the header)
    and the ``mode`` it was answered in. `body` is what mode `BODY` answers. Raises `OSError` when the port is taken.
    """

    def __init__(
        self,
        mode: WebMode = WebMode.NO_CONTENT,
        *,
        body: bytes = b"ok\n",
        host: str = "127.0.0.1",
        port: int = 0,
        log_path: str | Path | None = None,
    ) -> None:
        super().__init__(log_path)
        self.mode = mode
        self.body = body
        self.closing = threading.Event()
        web = _WebServer((host, port), _family(host), self)
        self.host, self.port = host, int(web.server_address[1])
        self._servers = [web]

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        super().__exit__(*error)

    @property
    def url(self) -> str:
        """Its address for a client that reaches it under `host`."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def write_down(self, peer: str, method: str, path: str, host: str) -> WebMode:
        """Write a request down and return the mode to answer it in."""
        mode = self.mode
        self._record.add(peer=peer, method=method, path=path, host=host, mode=mode)
        return mode


class _WebServer(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, web: WebFault) -> None:
        self.address_family = family
        self.web = web
        super().__init__(address, _WebHandler)


class _WebHandler(BaseHTTPRequestHandler):
    server: _WebServer
    timeout = 10
    server_version = "fault"

    def do_GET(self) -> None:
        web = self.server.web
        host = self.headers.get("Host", "")
        mode = web.write_down(self.client_address[0], self.command, self.path, host)
        if mode is WebMode.SILENT:
            web.closing.wait()
            self.close_connection = True
        elif mode is WebMode.NO_CONTENT:
            self._send(204, None)
        elif mode is WebMode.BODY:
            self._send(200, web.body)
        elif mode is WebMode.PORTAL_PAGE or self.path == _LOGIN_PATH:
            self._send(200, _LOGIN_PAGE)
        else:
            here, port = self.connection.getsockname()[:2]
            here = f"[{here}]" if ":" in here else here
            self._send(302, b"", Location=f"http://{here}:{port}{_LOGIN_PATH}")

    do_HEAD = do_POST = do_GET  # noqa: N815 (the names that http.server calls)

    def _send(self, status: int, body: bytes | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: what was asked is written down already."""


def serve(server: DnsFault | WebFault) -> int:
    """Run a server until SIGTERM or SIGINT, then return 0; to be called from the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with server:
        print(f"{'dns' if isinstance(server, DnsFault) else 'web'} on {server.host} port {server.port}", flush=True)
        stop.wait()
    return 0
