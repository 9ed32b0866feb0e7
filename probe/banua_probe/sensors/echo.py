"""ICMP echo as bytes (RFC 792, RFC 4443), and the books of one train: what was sent, what came back, and when."""

import socket
import struct
from dataclasses import dataclass, field
from typing import Final

MAX_STEP_NS: Final = 5_000_000
"""Kernel stamps that differ by more from the monotonic reading are not believed: the wall clock was stepped."""
TOKEN_BYTES: Final = 8
"""First bytes of each payload: random for each train, so that nobody else's replies are counted."""

_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
_HEADER: Final = struct.Struct("!BBHHH")
_STAMP: Final = struct.Struct("@ll")
_NS: Final = 1_000_000_000


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of `data`."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(family: socket.AddressFamily, ident: int, seq: int, payload: bytes) -> bytes:
    """Return an echo request; over IPv6 the kernel fills the checksum in."""
    head = (_ECHO[family][0], 0, 0, ident, seq)
    blank = _HEADER.pack(*head) + payload
    if family == socket.AF_INET6:
        return blank
    return _HEADER.pack(*head[:2], checksum(blank), *head[3:]) + payload


def parse_reply(message: bytes, family: socket.AddressFamily, ident: int, token: bytes) -> int | None:
    """Return the sequence number of the echo reply in `message`, None if it is none of this train.

    `message` is the ICMP message; before one of IPv4 its IP header may stand, as raw sockets have it.
    """
    if family == socket.AF_INET and message and message[0] >> 4 == 4:  # noqa: PLR2004 (an IP header: no reply begins so)
        message = message[(message[0] & 0x0F) * 4 :]
    if len(message) < _HEADER.size + len(token):
        return None
    kind, code, _, number, seq = _HEADER.unpack_from(message)
    mine = (kind, code, number) == (_ECHO[family][1], 0, ident)
    return seq if mine and message[_HEADER.size :].startswith(token) else None


def parse_stamp(data: bytes) -> int | None:
    """Return the software stamp of SCM_TIMESTAMPING in ns of CLOCK_REALTIME, None if there is none."""
    if len(data) < _STAMP.size:
        return None
    seconds, ns = _STAMP.unpack_from(data)
    return seconds * _NS + ns if seconds > 0 and 0 <= ns < _NS else None


@dataclass(slots=True)
class _Echo:
    """One request: CLOCK_MONOTONIC readings and the kernel's stamps (CLOCK_REALTIME), all in ns."""

    sent_ns: int
    tx_stamp_ns: int | None = None
    answered_ns: int | None = None
    rx_stamp_ns: int | None = None


@dataclass(slots=True)
class Ledger:
    """What became of each request; a reply that takes longer than `timeout_ns` is late, and its request is lost."""

    timeout_ns: int
    duplicates: int = 0
    late: int = 0
    _echoes: list[_Echo] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """How many requests left this machine."""
        return len(self._echoes)

    def send(self, at_ns: int) -> None:
        """Take note of the next request in order, sent at `at_ns`."""
        self._echoes.append(_Echo(at_ns))

    def stamp(self, seq: int, tx_stamp_ns: int) -> None:
        """Take note of when the kernel sent request `seq`; one that is not known is none of ours."""
        if 0 <= seq < len(self._echoes):
            self._echoes[seq].tx_stamp_ns = tx_stamp_ns

    def answer(self, seq: int, at_ns: int, rx_stamp_ns: int | None) -> None:
        """Take note of a reply to request `seq`, read at `at_ns`."""
        if not 0 <= seq < len(self._echoes):
            return
        echo = self._echoes[seq]
        if echo.answered_ns is not None:
            self.duplicates += 1
        elif at_ns - echo.sent_ns > self.timeout_ns:
            self.late += 1
        elif at_ns >= echo.sent_ns:
            echo.answered_ns, echo.rx_stamp_ns = at_ns, rx_stamp_ns

    def waiting_until_ns(self, now_ns: int) -> int | None:
        """Return until when a reply may come, None when there is nothing left to wait for."""
        ends = [echo.sent_ns + self.timeout_ns for echo in self._echoes if echo.answered_ns is None]
        return max((end for end in ends if end > now_ns), default=None)

    def rtts_us(self) -> tuple[list[float | None], bool]:
        """Return the round-trip times in send order, None where lost, and whether all are from kernel stamps."""
        trips = [_trip_ns(echo) for echo in self._echoes]
        by_kernel = [kernel for rtt_ns, kernel in trips if rtt_ns is not None]
        return [None if rtt_ns is None else rtt_ns / 1000 for rtt_ns, _ in trips], bool(by_kernel) and all(by_kernel)


def _trip_ns(echo: _Echo) -> tuple[int | None, bool]:
    """Return the round-trip time, and whether it is the kernel's."""
    if echo.answered_ns is None:
        return None, False
    by_program = echo.answered_ns - echo.sent_ns
    if echo.tx_stamp_ns is None or echo.rx_stamp_ns is None:
        return by_program, False
    by_kernel = echo.rx_stamp_ns - echo.tx_stamp_ns
    believed = by_kernel > 0 and abs(by_kernel - by_program) <= MAX_STEP_NS
    return (by_kernel, True) if believed else (by_program, False)
