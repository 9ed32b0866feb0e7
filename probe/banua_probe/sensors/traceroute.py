"""Traceroute and path MTU by UDP, without privileges: Linux hands the ICMP errors to the socket (IP_RECVERR).

Each packet has a socket of its own, connected to a destination port of its own: an error or an answer belongs to the
packet whose socket it arrives at, however little of the packet a router quotes, and an error that is still pending
can never look like a failed send. Packets go to ports 33434 and up, where nobody listens: a target that gets one
answers "port unreachable". They are never fragmented and ignore what the kernel remembers of the path's MTU
(IP_PMTUDISC_PROBE).
"""

import contextlib
import errno
import ipaddress
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from banua_probe.sensors.bound import Carrier, NeverLeftError, NotSentError, bind_to, carrier_of
from banua_probe.sensors.course import Course, Hop, Limits, Reply, follow
from banua_probe.sensors.icmp_error import (
    ORIGIN_ICMP,
    ORIGIN_ICMP6,
    ORIGIN_LOCAL,
    RECVERR,
    TOO_BIG,
    ExtendedError,
    answer_name,
    parse_extended_error,
)
from banua_probe.sensors.path_mtu import MAX_BYTES, TRIES, TRY_WAIT_S, MtuSearch, find

FIRST_PORT: Final = 33434

_PROBE: Final = 3  # IP_PMTUDISC_PROBE, IPV6_PMTUDISC_PROBE
_TRACE_PAYLOAD: Final = bytes(32)
_FULL_TTL: Final = 64
_QUEUE_BYTES: Final = MAX_BYTES
_ANCILLARY_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Trace:
    """A path as it was just now. `address` is the target's, `pmtu_bytes` the largest whole IP packet that fits."""

    address: str
    hops: list[Hop]
    reached: bool
    pmtu_bytes: int | None
    reason: str
    """Why the target was not reached, "" if it was."""


@dataclass(frozen=True, slots=True)
class _Family:
    """What differs between IPv4 and IPv6: socket options by number where Python lacks them."""

    level: int
    recverr: int
    mtu_discover: int
    ttl: int
    headers_bytes: int
    origin: int


_FAMILIES: Final = {
    socket.AF_INET: _Family(*RECVERR[socket.AF_INET], 10, socket.IP_TTL, 20 + 8, ORIGIN_ICMP),
    socket.AF_INET6: _Family(*RECVERR[socket.AF_INET6], 23, socket.IPV6_UNICAST_HOPS, 40 + 8, ORIGIN_ICMP6),
}


class UdpWire:
    """Sends numbered UDP packets to one address and hears what answers; a `Wire`, and a context that closes sockets."""

    def __init__(self, address: str, family: socket.AddressFamily, interface: str = "") -> None:
        self._address, self._kind, self._interface = address, family, interface
        self._family = _FAMILIES[family]
        self._poll = select.poll()
        self._flying: dict[int, tuple[int, socket.socket, int]] = {}  # by file descriptor: number, socket, sent at
        self._sent = 0
        self._carrier: Carrier | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in list(self._flying):
            self._close(fd)

    def send(self, number: int, ttl: int, payload: bytes = _TRACE_PAYLOAD) -> None:
        """Send one packet; OSError when it did not leave this machine."""
        sock = self._socket(ttl)
        try:
            sent_ns = time.monotonic_ns()
            sock.send(payload)
        except OSError:
            sock.close()
            raise
        self._flying[sock.fileno()] = (number, sock, sent_ns)
        self._poll.register(sock.fileno(), select.POLLIN)

    def send_sized(self, number: int, size_bytes: int) -> None:
        """Send a whole IP packet of `size_bytes` as far as the target; OSError when it did not leave this machine."""
        self.send(number, _FULL_TTL, bytes(size_bytes - self._family.headers_bytes))

    def receive(self, timeout_s: float) -> list[tuple[int, Reply, int]]:
        """Return what answered within `timeout_s`: number, reply, round trip in µs; often nothing."""
        heard = []
        for fd, _ in self._poll.poll(timeout_s * 1000):
            now_ns = time.monotonic_ns()
            number, sock, sent_ns = self._flying[fd]
            reply = self._read(sock)
            if reply is not None:
                heard.append((number, reply, (now_ns - sent_ns) // 1000))
                self._close(fd)
        return heard

    def forget(self, number: int) -> None:
        """Wait no longer for an answer to `number`."""
        for fd in [fd for fd, (flying, _, _) in self._flying.items() if flying == number]:
            self._close(fd)

    def check_carrier(self) -> None:
        """Raise NeverLeftError when the interface lost its carrier since the first packet."""
        if self._carrier is not None:
            self._carrier.check()

    def smallest_bytes(self) -> int:
        """Return the size of the packets of a trace."""
        return len(_TRACE_PAYLOAD) + self._family.headers_bytes

    def local_mtu_bytes(self) -> int:
        """Return the MTU of the interface that packets leave by: what the kernel says when it refuses a huge one."""
        with self._socket(_FULL_TTL) as sock:
            try:
                sock.send(bytes(MAX_BYTES - self._family.headers_bytes))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                told = _from_queue(sock)
                if told is not None and told.origin == ORIGIN_LOCAL:
                    return min(told.info, MAX_BYTES)
        return MAX_BYTES  # it was sent: the loopback

    def _socket(self, ttl: int) -> socket.socket:
        sock = socket.socket(self._kind, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            bind_to(sock, self._interface)
            self._carrier = self._carrier or carrier_of(sock, self._address)
            self._carrier.check()
            for option, value in ((self._family.recverr, 1), (self._family.mtu_discover, _PROBE)):
                sock.setsockopt(self._family.level, option, value)
            sock.setsockopt(self._family.level, self._family.ttl, ttl)
            sock.connect((self._address, self._port()))
        except OSError:
            sock.close()
            raise
        return sock

    def _port(self) -> int:
        port = FIRST_PORT + self._sent
        self._sent += 1
        return port

    def _read(self, sock: socket.socket) -> Reply | None:
        """Return what a socket that is ready has heard; None for what no router and no target said."""
        error = _from_queue(sock)
        if error is None:
            with contextlib.suppress(OSError):
                sock.recv(1)
                return Reply(plain(self._address), "udp_reply")
            return None
        own = plain(str(sock.getsockname()[0]))
        if error.origin != self._family.origin or error.offender is None:
            return None
        if error.offender == own != plain(self._address):
            return None  # our own kernel, for a neighbour that it cannot find
        answer = answer_name(error.type, error.code, ipv6=self._kind == socket.AF_INET6)
        return Reply(error.offender, answer, error.info or None if answer == TOO_BIG else None)

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._flying.pop(fd)[1].close()


def _from_queue(sock: socket.socket) -> ExtendedError | None:
    """Return the next entry of the socket's error queue."""
    try:
        _, ancillary, _, _ = sock.recvmsg(_QUEUE_BYTES, _ANCILLARY_BYTES, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    by_option = set(RECVERR.values())
    data = next((data for level, option, data in ancillary if (level, option) in by_option), b"")
    return parse_extended_error(data)


def trace(address: str, family: socket.AddressFamily, *, interface: str = "", limits: Limits | None = None) -> Trace:
    """Trace the path to `address`, an IP address, at most `limits.whole_s` and `path_mtu.WHOLE_S` long.

    `pmtu_bytes` is absent where the target never answers and no router states it, and where the search takes too long.
    The trace ends when the interface loses its carrier: then the silent hops at its end, whose packets may never have
    left, are taken off. NotSentError when nothing is known to have left this machine.
    """
    limits = limits or Limits()
    course = Course(plain(address), limits)
    try:
        with UdpWire(address, family, interface) as wire:
            follow(course, wire, limits)
            hops, reason = known(course, wire.check_carrier)
    except OSError as error:
        raise NotSentError(f"not sent: {error.strerror or error}") from error
    pmtu_bytes = _path_mtu(address, family, interface, reached=course.reached)
    return Trace(course.target, hops, course.reached, pmtu_bytes, reason)


def known(course: Course, check_carrier: Callable[[], None]) -> tuple[list[Hop], str]:
    """Return the hops of an ended trace, and why it did not reach its target.

    Silent hops at its end are not known when `check_carrier` raises NeverLeftError; with no other hop, that is raised.
    """
    hops, reason = course.hops(), course.why_unreached()
    if course.reached or hops[-1].address is not None:
        return hops, reason
    try:
        check_carrier()
    except NeverLeftError as error:
        while hops and hops[-1].address is None:
            hops.pop()
        if not hops:
            raise
        reason = f"not sent: {error.strerror}"
    return hops, reason


def plain(address: str) -> str:
    """Return an address in its usual form and without the zone of an IPv6 one, as answers name it."""
    return str(ipaddress.ip_address(address.partition("%")[0]))


def _path_mtu(address: str, family: socket.AddressFamily, interface: str, *, reached: bool) -> int | None:
    with UdpWire(address, family, interface) as wire, contextlib.suppress(OSError):
        search = MtuSearch(wire.smallest_bytes(), wire.local_mtu_bytes())
        found = find(lambda size_bytes: _ask(wire, size_bytes), search, plain(address), reached=reached)
        wire.check_carrier()
        return found
    return None


def _ask(wire: UdpWire, size_bytes: int) -> Reply | None:
    """Send a packet of that size until something answers, `TRIES` times at most; OSError when none can leave."""
    heard: list[tuple[int, Reply, int]] = []
    for number in range(TRIES):
        wire.send_sized(number, size_bytes)
        heard = wire.receive(TRY_WAIT_S)
        if heard:
            break
    for number in range(TRIES):
        wire.forget(number)
    return heard[0][1] if heard else None
