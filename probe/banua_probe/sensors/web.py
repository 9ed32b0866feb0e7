"""`web`: one GET of one small page (HTTP/1.1, RFC 9112), its phases timed apart, and whether a captive portal answered.

An answer with a status is measured, even a wrong one; `ok` says whether it is the expected one. When its body is cut
short it is measured too, not ok, with phase `body` and the reason. Phase `first_byte` ends with the answer's head.
The name is looked up by the system's resolver, so that `dns_us` goes by the routes and its cache; an address needs no
lookup and has none. A lookup that fails while nothing could leave this machine is no failure of the network's.
"""

import contextlib
import ipaddress
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
from banua_probe.sensors.bound import NeverLeftError, bind_to, carrier_of, connect_within, who
from banua_probe.sensors.http_reply import Body, Head, HttpError, split_head
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

USER_AGENT: Final = "sinyal-banua"

_MAX_ADDRESSES: Final = 2
_RECEIVE_BYTES: Final = 16_384
_FAR_AWAY: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # RFC 5737, RFC 3849: nobody's
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LOGIN_REQUIRED: Final = 511  # RFC 6585 §6
_OK: Final = 200
_NO_CONTENT: Final = 204

Resolve = Callable[[str, int], list[Any]]
"""Host and port to what `socket.getaddrinfo` returns; OSError or UnicodeError when there is no address."""
WayOut = Callable[[str], str]
"""Interface ("": any) to why nothing can leave this machine by it, "" if something can."""


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


def verdict(target: WebTarget, head: Head, body: Body) -> dict[str, Value]:
    """Return what an answer says of `target`: `status`, `ok` with its reason, `portal`, `location`, `body_bytes`.

    `portal` is 0 when the answer is the expected one and no portal could have given it: without content, with the
    expected text, or over TLS, where the certificate was verified. It is 1 when something looks like a captive portal
    in the place of a plain page: 511, a way to another host, and where an answer without content is expected, any way
    or page. Otherwise nobody can tell, and it is absent.
    """
    wrong = _wrong(target, head, body)
    values: dict[str, Value] = {"status": head.status, "ok": int(not wrong), "body_bytes": len(body.content)}
    values |= {"reason": wrong} if wrong else {}
    values |= {"location": head.location} if head.location else {}
    if wrong and _like_portal(target, head, body):
        values["portal"] = 1
    elif not wrong and _tells_portals(target):
        values["portal"] = 0
    return values


def _wrong(target: WebTarget, head: Head, body: Body) -> str:
    """Return what is wrong with an answer, "" if nothing is."""
    if head.status != target.expect_status:
        return f"status {head.status}, not {target.expect_status}"
    if not body.whole and not body.full:
        return "body cut short"
    return "" if target.expect_text.encode() in body.content else "without the expected text"


def _tells_portals(target: WebTarget) -> bool:
    """Say whether the expected answer is one that a portal would not give: a page of 200 without a text may be its."""
    return target.expect_status == _NO_CONTENT or bool(target.expect_text) or target.url.startswith("https:")


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


def no_way_out(interface: str) -> str:
    """Return why nothing can leave this machine, by `interface` if one is given: no route or address, no carrier.

    "" if something can. Nothing is sent: to connect a UDP socket makes the kernel look for a route, no more.
    """
    why = ""
    for family, address in _FAR_AWAY:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                bind_to(sock, interface)
                carrier_of(sock, address)
                sock.connect((address, 9))
                if not ipaddress.ip_address(sock.getsockname()[0]).is_unspecified:
                    return ""
                why = why or f"{interface}: no address"
        except OSError as error:
            why = why or error.strerror or str(error)
    return why


def fetch(
    target: WebTarget,
    boottime_ms: Callable[[], int],
    *,
    interface: str = "",
    resolve: Resolve = system_resolve,
    way_out: WayOut = no_way_out,
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
        if failed.phase == "dns" and (why := way_out(interface)):
            values |= {"outcome": "not_measured", "reason": f"not sent: {why}"}
        else:
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
                raise ValueError("name without an address")
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
                try:
                    sock, took_ns = _connect(family, address, self._interface, share_s)
                except OSError as error:
                    failures.append((address[0], error))
                    continue
                self._values |= {"connect_us": took_ns // 1000, "address": address[0]}
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
                found = split_head(received)
                if found is None:
                    received += self._receive(sock)
                    continue
                head, received = found
                if head.status >= _OK:  # below it is an interim answer
                    return head, received

    def _receive(self, sock: socket.socket) -> bytes:
        sock.settimeout(self._clock.left_s())
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            raise HttpError("closed without an answer")
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
        except (OSError, ValueError, HttpError) as error:
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


def _connect(family: int, address: Any, interface: str, timeout_s: float) -> tuple[socket.socket, int]:
    """Return a connected socket and how long that took in ns.

    NeverLeftError when nothing left this machine, OSError for what came back.
    """
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NeverLeftError(error.errno, error.strerror) from error
    try:
        bind_to(sock, interface)
        return sock, connect_within(sock, address, timeout_s)
    except OSError:
        sock.close()
        raise


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
