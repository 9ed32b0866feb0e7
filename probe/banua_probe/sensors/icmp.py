"""One train of ICMP echo requests with the kernel's time stamps, by a ping socket where permitted, else a raw one.

Stamps are asked for with SO_TIMESTAMPING: those of sending come through the error queue, those of receiving beside the
reply. They are CLOCK_REALTIME; `echo.Ledger` believes them only where the monotonic clock agrees.
"""

import contextlib
import errno
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from banua_probe.sensors.bound import NEVER_LEFT, NeverLeftError, NotSentError, bind_to, carrier_of
from banua_probe.sensors.echo import TOKEN_BYTES, Ledger, parse_reply, parse_stamp, request
from banua_probe.sensors.icmp_error import (
    ORIGIN_ICMP,
    ORIGIN_ICMP6,
    ORIGIN_TIMESTAMPING,
    RECVERR,
    answer_name,
    parse_extended_error,
)

ADVICE: Final = (
    'not permitted; until the next start: sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"; '
    "for good: the line net.ipv4.ping_group_range = 0 2147483647 in /etc/sysctl.d/banua.conf"
)

_SO_TIMESTAMPING: Final = 37
_STAMPING: Final = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 11
"""Software stamps of sending and receiving, reported, with a running number (OPT_ID) and nothing else (OPT_TSONLY)."""
_RAW_LEVEL: Final = 255
_ICMP_FILTER: Final = 1
_ANCILLARY: Final = 512
_LARGEST: Final = 2048
_RETRY_S: Final = 0.005
_SETTLE_S: Final = 0.02
"""The kernel begins to stamp what comes in a little after the first socket on the machine asks for it."""
_AT_ONCE: Final = 1000
"""Most messages taken in before the clock is looked at again."""
_PROTOCOL: Final = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_TTL: Final = {socket.AF_INET: (socket.SOL_IP, 12, 2), socket.AF_INET6: (socket.IPPROTO_IPV6, 51, 52)}
"""Level, option and kind of ancillary data: IP_RECVTTL and IP_TTL, IPV6_RECVHOPLIMIT and IPV6_HOPLIMIT."""

Open = Callable[[socket.AddressFamily, int, int], socket.socket]


class NotPermitted(Exception):  # noqa: N818 (a condition of the machine, named as one)
    """The kernel lets this process open neither a ping socket nor a raw one."""

    def __init__(self) -> None:
        super().__init__("ICMP not permitted")


@dataclass(frozen=True, slots=True)
class Train:
    """A train that was sent: its first packet, which may wake the radio, stands first in `rtt_us`."""

    rtt_us: list[float | None]
    """In send order, None where no reply came in time."""
    timestamp_source: str
    """"kernel" if every time is from the kernel's stamps, else "user"."""
    reply_ttl: int | None
    duplicates: int
    late: int
    reason: str
    """What ended the train early, or what came instead of replies; "" if nothing did."""
    ident: int


def open_socket(family: socket.AddressFamily, open_: Open = socket.socket) -> socket.socket:
    """Return a ping socket, or a raw one where that is refused; NotPermitted when both are."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return open_(family, kind, _PROTOCOL[family])
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT):
                raise NotSentError(f"not sent: {error.strerror}") from error
    raise NotPermitted


def permitted(open_: Open = socket.socket) -> bool:
    """Say whether this process may send ICMP echo requests."""
    try:
        open_socket(socket.AF_INET, open_).close()
    except (NotPermitted, NotSentError):
        return False
    return True


def run_train(
    address: str,
    family: socket.AddressFamily,
    *,
    count: int,
    interval_s: float,
    payload_bytes: int = 16,
    timeout_s: float = 3.0,
    interface: str = "",
    open_: Open = socket.socket,
) -> Train:
    """Send one request and wait for its reply, then `count` more, one each `interval_s`, without waiting in between.

    A reply counts within `timeout_s` of its request. The train ends where a request cannot be sent or the interface has
    lost its carrier: then the unanswered requests at its end may never have left, and are taken off. NotPermitted, or
    NotSentError when nothing is known to have left.
    """
    with open_socket(family, open_) as sock:
        exchange = _Exchange(sock, family, payload_bytes, round(timeout_s * 1e9))
        exchange.prepare(address, interface)
        exchange.send()
        exchange.listen(until_all=True)
        begin_ns = time.monotonic_ns()
        for number in range(count):
            exchange.listen(begin_ns + round(number * interval_s * 1e9))
            if not exchange.send():
                break
        exchange.listen(until_all=True)
        return exchange.train()


class _Exchange:
    """A train under way: the socket, and the books."""

    def __init__(self, sock: socket.socket, family: socket.AddressFamily, payload_bytes: int, timeout_ns: int) -> None:
        self._sock, self._family = sock, family
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._payload = self._token.ljust(payload_bytes, b"\0")
        self._ledger = Ledger(timeout_ns)
        self._ident = 0
        self._ttl: int | None = None
        self._instead = self._ended = ""

    def prepare(self, address: str, interface: str) -> None:
        """Bind and connect the socket and ask for what it is to tell; NotSentError where that fails."""
        sock, raw = self._sock, self._sock.type == socket.SOCK_RAW
        try:
            bind_to(sock, interface)
            if raw and self._family == socket.AF_INET:
                sock.setsockopt(_RAW_LEVEL, _ICMP_FILTER, struct.pack("=I", ~(1 << 0) & 0xFFFFFFFF))
            level, option, _ = _TTL[self._family]
            sock.setsockopt(level, option, 1)
            sock.setsockopt(*RECVERR[self._family], 1)
            with contextlib.suppress(OSError):  # an old kernel: the program's own times have to do
                sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _STAMPING)
            self._carrier = carrier_of(sock, address)
            sock.connect((address, 0))
        except OSError as error:
            raise NotSentError(f"not sent: {error.strerror}") from error
        self._ident = secrets.randbelow(2**16) if raw else int(sock.getsockname()[1])
        sock.setblocking(False)
        time.sleep(_SETTLE_S)

    def send(self) -> bool:
        """Send the next request; False when it could not be sent, NotSentError when it was the first."""
        message = request(self._family, self._ident, self._ledger.sent, self._payload)
        for last_try in (False, False, True):
            try:
                self._carrier.check()
                at_ns = time.monotonic_ns()
                self._sock.send(message)
            except OSError as error:
                if last_try or (not self._ledger.sent and error.errno in NEVER_LEFT):
                    self._refused(error)
                    return False
                self._drain()  # a full queue, or a router's answer to an earlier request, told only now
                time.sleep(_RETRY_S)
            else:
                self._ledger.send(at_ns)
                return True
        return False

    def _refused(self, error: OSError) -> None:
        if not self._ledger.sent:
            raise NotSentError(f"not sent: {error.strerror}") from error
        self._ended = f"not sent: {error.strerror}"

    def listen(self, until_ns: int = 0, *, until_all: bool = False) -> None:
        """Take in what comes until `until_ns` (CLOCK_MONOTONIC), or until every request is answered or lost."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            now_ns = time.monotonic_ns()
            end_ns = self._ledger.waiting_until_ns(now_ns) if until_all else until_ns
            if end_ns is None or now_ns >= end_ns:
                return
            # poll counts whole milliseconds: the last part of one is slept, so that sends are on time
            wait_ms = (end_ns - now_ns) // 1_000_000
            if wait_ms:
                poll.poll(wait_ms)
            elif not until_all:
                time.sleep((end_ns - now_ns) / 1e9)
            self._drain()

    def _drain(self) -> None:
        """Take in everything that waits at the socket: stamps and errors first, for a reply needs its stamp."""
        for take, flags in ((self._take_told, socket.MSG_ERRQUEUE), (self._take_reply, 0)):
            for _ in range(_AT_ONCE):
                try:
                    message, ancillary, _, _ = self._sock.recvmsg(_LARGEST, _ANCILLARY, flags)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error that the error queue tells too
                    continue
                take(message, ancillary)

    def _take_told(self, _message: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        stamp_ns = None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPING):
                stamp_ns = parse_stamp(data)
            elif (level, kind) == RECVERR[self._family] and (error := parse_extended_error(data)):
                if error.origin == ORIGIN_TIMESTAMPING and stamp_ns is not None:
                    self._ledger.stamp(error.data, stamp_ns)
                elif error.origin in (ORIGIN_ICMP, ORIGIN_ICMP6):
                    what = answer_name(error.type, error.code, ipv6=self._family == socket.AF_INET6)
                    self._instead = f"{what.replace('_', ' ')} from {error.offender}"

    def _take_reply(self, message: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        at_ns = time.monotonic_ns()
        seq = parse_reply(message, self._family, self._ident, self._token)
        if seq is None:
            return
        stamp_ns = None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPING):
                stamp_ns = parse_stamp(data)
            elif (level, kind) == (_TTL[self._family][0], _TTL[self._family][2]) and len(data) >= 4:  # noqa: PLR2004
                self._ttl = struct.unpack_from("@i", data)[0]
        self._ledger.answer(seq, at_ns, stamp_ns)

    def train(self) -> Train:
        """Return the train as it stands; NotSentError when nothing that is known to have left is in it."""
        rtts, all_by_kernel = self._ledger.rtts_us()
        if rtts[-1] is None:
            try:
                self._carrier.check()
            except NeverLeftError as error:
                self._ended = f"not sent: {error.strerror}"
                while rtts and rtts[-1] is None:
                    rtts.pop()
        if not rtts:
            raise NotSentError(self._ended)
        return Train(
            rtts,
            "kernel" if all_by_kernel else "user",
            self._ttl,
            self._ledger.duplicates,
            self._ledger.late,
            self._ended or self._instead,
            self._ident,
        )
