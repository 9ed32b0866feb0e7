"""`web`: one GET of one small page (HTTP/1.1, RFC 9112), its phases timed apart, and whether a captive portal answered.

An answer with a status is measured, even a wrong one; `ok` says whether it is the expected one. When its body is cut
short it is measured too, not ok, with phase `body` and the reason. Phase `first_byte` ends with the answer's head.
The name is looked up by the system's resolver, so that `dns_us` goes by the routes and its cache; an address needs no
lookup and has none.
"""

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from banua_probe.config import WebTarget, is_address
from banua_probe.sensors.bound import NeverLeftError, bind_to, connect_within, who
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import MAX_TEXT, Value
from banua_wire.rows import Row

USER_AGENT: Final = "sinyal-banua"
MAX_HEAD_BYTES: Final = 65_536
"""Longest head of an answer."""

_MAX_ADDRESSES: Final = 2
_MAX_LINE: Final = 1024
_RECEIVE_BYTES: Final = 16_384
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_WITHOUT_BODY: Final = frozenset({204, 304})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LOGIN_REQUIRED: Final = 511  # RFC 6585 §6
_OK: Final = 200
_NO_CONTENT: Final = 204

Resolve = Callable[[str, int], list[Any]]
"""Host and port to what `socket.getaddrinfo` returns; OSError or UnicodeError when there is no address."""


class WebError(Exception):
    """Bytes that are no HTTP answer; one line says why."""


class _PhaseFailed(Exception):  # noqa: N818 (an outcome of a request, not an error of ours)
    """The request ended in `phase`; the message says why."""

    def __init__(self, phase: str, reason: str) -> None:
        super().__init__(reason)
        self.phase = phase


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may take: `whole_s` altogether, `phase_s` each phase but the body."""

    whole_s: float = 10.0
    phase_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer, their names in small letters; of a repeated one, the first."""

    status: int
    headers: dict[str, str]

    @property
    def location(self) -> str:
        """The host of ``Location``, "" when it has none that can be told, as one that is a path only."""
        try:
            host = urlsplit(self.headers.get("location", "")).hostname or ""
        except ValueError:
            return ""
        return host if host.isprintable() and len(host) <= MAX_TEXT else ""


def parse_head(block: bytes) -> Head:
    """Return the head in `block`, the bytes before the empty line; WebError when it is none of HTTP/1."""
    status_line, *lines = block.decode("latin-1").replace("\r\n", "\n").split("\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if status is None:
        raise WebError(f"not an HTTP answer: {status_line[:40]!a}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.lower(), value.strip())
    return Head(int(status[1]), headers)


class Body:
    """The body of an answer out of the bytes that follow its head (RFC 9112 §6.3), no more than `limit_bytes` of it.

    `content` is what came so far without chunk framing. `whole` says that the body has ended, `full` that the limit is
    reached: with either there is nothing more to read.
    """

    def __init__(self, head: Head, limit_bytes: int) -> None:
        self.content = bytearray()
        self._limit_bytes = limit_bytes
        self._chunked = head.headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = None if self._chunked else _LENGTH.fullmatch(head.headers.get("content-length", ""))
        self._left = int(length[0]) if length else None  # of the body, or of the chunk
        self._until_closed = not self._chunked and length is None
        self._pending = bytearray()
        self.whole = head.status in _WITHOUT_BODY or self._left == 0

    @property
    def full(self) -> bool:
        """Whether as much was read as may be."""
        return len(self.content) >= self._limit_bytes

    def feed(self, data: bytes) -> None:
        """Take the next bytes; WebError when chunks are malformed."""
        if self._chunked:
            self._feed_chunks(data)
        elif not self.whole:
            self._keep(data)
            self.whole = self._left == 0

    def close(self) -> None:
        """Take the end of the connection; WebError when the body had not ended."""
        if not self._until_closed and not self.whole:
            raise WebError("cut short: the connection was closed")
        self.whole = True

    def _keep(self, data: bytes | bytearray) -> None:
        """Keep what belongs to the body or the chunk and is within the limit."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self.content += data[: self._limit_bytes - len(self.content)]

    def _feed_chunks(self, data: bytes) -> None:
        self._pending += data
        while self._pending and not self.whole and not self.full:
            if self._left:
                taken = min(self._left, len(self._pending))
                self._keep(self._pending[:taken])
                del self._pending[:taken]
            elif not self._next_chunk():
                return

    def _next_chunk(self) -> bool:
        """Read the line with the size of the next chunk; False when it has not come yet."""
        line, newline, _ = self._pending.partition(b"\n")
        if len(line) > _MAX_LINE:
            raise WebError("malformed chunks")
        if not newline:
            return False
        del self._pending[: len(line) + 1]
        line = line.removesuffix(b"\r")
        if not line and self._left is not None:  # the end of the chunk before
            self._left = None
            return True
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise WebError("malformed chunks")
        self._left = int(size[1], 16)
        self.whole = self._left == 0
        return True


def verdict(target: WebTarget, head: Head, body: Body) -> dict[str, Value]:
    """Return what an answer says of `target`: `status`, `ok` with its reason, `portal`, `location`, `body_bytes`.

    `portal` is 0 when the answer is the expected one, 1 when something looks like a captive portal in the place of a
    plain page: 511, a way to another host, and where an answer without content is expected, any way or page. Otherwise
    nobody can tell, and it is absent.
    """
    wrong = _wrong(target, head, body)
    values: dict[str, Value] = {"status": head.status, "ok": int(not wrong), "body_bytes": len(body.content)}
    values |= {"reason": wrong} if wrong else {}
    values |= {"location": head.location} if head.location else {}
    if not wrong:
        values["portal"] = 0
    elif _like_portal(target, head, body):
        values["portal"] = 1
    return values


def _wrong(target: WebTarget, head: Head, body: Body) -> str:
    """Return what is wrong with an answer, "" if nothing is."""
    if head.status != target.expect_status:
        return f"status {head.status}, not {target.expect_status}"
    if not body.whole and not body.full:
        return "body cut short"
    return "" if target.expect_text.encode() in body.content else "without the expected text"


def _like_portal(target: WebTarget, head: Head, body: Body) -> bool:
    url = urlsplit(target.url)
    if url.scheme != "http" or head.status == target.expect_status:
        return False
    if head.status in _REDIRECTS:
        return target.expect_status == _NO_CONTENT or head.location not in {"", url.hostname}
    page = head.status == _OK and target.expect_status == _NO_CONTENT and bool(body.content)
    return page or head.status == _LOGIN_REQUIRED


def system_resolve(host: str, port: int) -> list[Any]:
    """Return the addresses of `host` as the system's resolver gives them."""
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def fetch(
    target: WebTarget,
    boottime_ms: Callable[[], int],
    *,
    interface: str = "",
    resolve: Resolve = system_resolve,
    limits: Limits | None = None,
) -> Row:
    """Get the page of `target`, bound to `interface` if one is given, and return its row.

    Nothing raises: what goes wrong is in the row, with its phase and reason.
    """
    started_ms = boottime_ms()
    values = who("web", target, interface)
    try:
        _Request(target, interface, resolve, limits or Limits(), values).run()
    except NeverLeftError as error:
        values |= {"outcome": "not_measured", "reason": f"not sent: {error.strerror}"}
    except _PhaseFailed as failed:
        values |= {"outcome": "failed", "phase": failed.phase, "reason": str(failed)}
    return Row("web", started_ms, within_dictionary("web", values))


class _Request:
    """One request; it writes what it learns into `values` as it goes on."""

    def __init__(
        self, target: WebTarget, interface: str, resolve: Resolve, limits: Limits, values: dict[str, Value]
    ) -> None:
        self._target, self._interface, self._resolve, self._values = target, interface, resolve, values
        self._url = urlsplit(target.url)
        self._host = self._url.hostname or ""
        self._clock = _Clock(limits)

    def run(self) -> None:
        """Go through the phases. _PhaseFailed when there is no answer, NeverLeftError when nothing was sent."""
        context = self._trust() if self._url.scheme == "https" else None
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self._connected(self._addresses()))
            if context is not None:
                sock = stack.enter_context(self._secured(context, sock))
            head, rest = self._answer(sock)
            body = Body(head, self._target.max_kb * 1000)
            try:
                self._read(sock, body, rest)
                cut: dict[str, Value] = {"total_us": self._clock.total_us()}
            except _PhaseFailed as failed:
                cut = {"phase": failed.phase, "reason": str(failed)}
        self._values |= {"outcome": "measured"} | verdict(self._target, head, body) | cut

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._target.ca_file or None)
        except OSError as error:
            raise NeverLeftError(error.errno, f"ca_file: {error.strerror}") from error

    def _addresses(self) -> list[Any]:
        """Return the addresses to try: the system's first, and one of the other family before a second of the same."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        with self._phase("dns"):
            found = _within(self._clock.left_s(), lambda: self._resolve(self._host, port))
            if not found:
                raise WebError("name without an address")
            if not is_address(self._host):
                self._values["dns_us"] = self._clock.phase_us()
        others = sorted(found[1:], key=lambda each: each[0] == found[0][0])
        return [*found[:1], *others][:_MAX_ADDRESSES]

    def _connected(self, addresses: list[Any]) -> socket.socket:
        """Return a socket to the first address that connects; each has its share of the phase's time."""
        failures: list[tuple[str, OSError]] = []
        with self._phase("connect"):
            for number, (family, *_, address) in enumerate(addresses):
                share_s = self._clock.left_s() / (len(addresses) - number)
                began_ns = time.monotonic_ns()
                try:
                    sock = _connect(family, address, self._interface, share_s)
                except OSError as error:
                    failures.append((address[0], error))
                    continue
                self._values |= {"connect_us": (time.monotonic_ns() - began_ns) // 1000, "address": address[0]}
                return sock
        tried = [(address, error) for address, error in failures if not isinstance(error, NeverLeftError)]
        if not tried:
            raise failures[0][1]
        raise _PhaseFailed("connect", "; ".join(f"{address}: {_told(error)}" for address, error in tried))

    def _secured(self, context: ssl.SSLContext, sock: socket.socket) -> ssl.SSLSocket:
        with self._phase("tls"):
            sock.settimeout(self._clock.left_s())
            secured = context.wrap_socket(sock, server_hostname=self._host)
            self._values["tls_us"] = self._clock.phase_us()
            return secured

    def _answer(self, sock: socket.socket) -> tuple[Head, bytes]:
        """Send the request, and return the head of the final answer and what came of the body with it."""
        with self._phase("first_byte"):
            sock.settimeout(self._clock.left_s())
            sock.sendall(_request(self._url.netloc, self._url.path, self._url.query))
            received = self._receive(sock)
            self._values["first_byte_us"] = self._clock.phase_us()
            self._clock.unbind()
            while True:
                end = _END_OF_HEAD.search(received)
                if end is None:
                    if len(received) > MAX_HEAD_BYTES:
                        raise WebError("head too long")
                    received += self._receive(sock)
                    continue
                head = parse_head(received[: end.start()])
                received = received[end.end() :]
                if head.status >= _OK:  # below it is an interim answer
                    return head, received

    def _receive(self, sock: socket.socket) -> bytes:
        sock.settimeout(self._clock.left_s())
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            raise WebError("closed without an answer")
        return data

    def _read(self, sock: socket.socket, body: Body, data: bytes) -> None:
        """Read the body to its end or limit."""
        with self._phase("body"):
            self._clock.unbind()
            body.feed(data)
            while not body.whole and not body.full:
                sock.settimeout(self._clock.left_s())
                data = sock.recv(_RECEIVE_BYTES)
                if data:
                    body.feed(data)
                else:
                    body.close()

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Begin a phase; what goes wrong in it becomes _PhaseFailed."""
        self._clock.begin()
        try:
            yield
        except TimeoutError:
            raise _PhaseFailed(name, f"timed out after {self._clock.phase_us() / 1e6:.1f} s") from None
        except (OSError, ValueError, WebError) as error:
            raise _PhaseFailed(name, _told(error)) from error


class _Clock:
    """CLOCK_MONOTONIC since the beginning of a request and of its phase, and what is left of their time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began_ns = time.monotonic_ns()
        self.begin()

    def begin(self) -> None:
        """Begin a phase."""
        self._phase_ns = time.monotonic_ns()
        self._bound = True

    def unbind(self) -> None:
        """Let the rest of this phase take all the time of the request."""
        self._bound = False

    def phase_us(self) -> int:
        """Return the duration of the phase so far, in µs."""
        return (time.monotonic_ns() - self._phase_ns) // 1000

    def total_us(self) -> int:
        """Return the duration of the request so far, in µs."""
        return (time.monotonic_ns() - self._began_ns) // 1000

    def left_s(self) -> float:
        """Return the time that is left, in s; TimeoutError when none is."""
        left_s = self._limits.whole_s - self.total_us() / 1e6
        if self._bound:
            left_s = min(left_s, self._limits.phase_s - self.phase_us() / 1e6)
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _request(authority: str, path: str, query: str) -> bytes:
    lines = [
        f"GET {path or '/'}{'?' if query else ''}{query} HTTP/1.1",
        f"Host: {authority}",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _within(timeout_s: float, resolve: Callable[[], list[Any]]) -> list[Any]:
    """Return what `resolve` returns; TimeoutError when the system's resolver, which has its own mind, takes longer."""
    future: Future[list[Any]] = Future()

    def work() -> None:
        try:
            future.set_result(resolve())
        except (OSError, UnicodeError) as error:
            future.set_exception(error)

    threading.Thread(target=work, name="web resolve", daemon=True).start()
    return future.result(timeout_s)


def _connect(family: int, address: Any, interface: str, timeout_s: float) -> socket.socket:
    """Return a connected socket; NeverLeftError when nothing left this machine, OSError for what came back."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NeverLeftError(error.errno, error.strerror) from error
    try:
        bind_to(sock, interface)
        connect_within(sock, address, timeout_s)
    except OSError:
        sock.close()
        raise
    return sock


def _told(error: Exception) -> str:
    """Return an error in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "timed out"
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told[:1].lower() + told[1:]
