"""Raw packets for `diagnose`: scapy builds and reads them, two raw sockets carry them. Needs root or CAP_NET_RAW.

An answer belongs to a packet by a number of ours within its first 8 bytes after the IP header (TCP's sequence number,
ICMP echo's), which is all that every router quotes, and which no address translator changes for good.
"""

import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from scapy.layers.inet import ICMP, IP, TCP, IPerror, TCPerror

from banua_probe.sensors.bound import bind_to
from banua_probe.sensors.course import Reply
from banua_probe.sensors.icmp_error import TOO_BIG, answer_name

_MTU_DISCOVER: Final = 10
_PROBE: Final = 3
_MAX_BYTES: Final = 65_535
_SYN_ACK: Final = 0x12
_RST: Final = 0x04
_ECHO_REPLY: Final = 0
_ERRORS: Final = frozenset({3, 11, 12})
"""ICMP types that quote a packet."""
_BEGIN: Final = struct.Struct("!II")
"""Ports and sequence number of TCP."""
_BEGIN_ECHO: Final = struct.Struct("!4xHH")
"""Identifier and number of an ICMP echo request."""
SERIAL_BASE: Final = 0x5B000000
"""First TCP sequence number: packet number n has SERIAL_BASE + n."""
MSS_BYTES: Final = 1460
DSCP: Final = 10
"""AF11: a mark that costs nothing if it is honoured, and shows where marks are cleared."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Who talks to whom: addresses, this run's own port or echo identifier, and the network interface, "" for any."""

    source: str
    target: str
    own: int
    interface: str = ""

    def syn(self, number: int, port: int, ttl: int = 64) -> Any:
        """Return packet `number` as a TCP SYN to `port`."""
        options = [("MSS", MSS_BYTES)]
        tcp = TCP(sport=self.own, dport=port, seq=SERIAL_BASE + number, flags="S", options=options)
        return self._ip(number, ttl, tos=DSCP << 2) / tcp

    def echo(self, number: int, ttl: int = 64, size_bytes: int = 60) -> Any:
        """Return packet `number` as an ICMP echo request of `size_bytes` in all."""
        return self._ip(number, ttl, tos=DSCP << 2) / ICMP(id=self.own, seq=number) / bytes(size_bytes - 28)

    def _ip(self, number: int, ttl: int, tos: int) -> Any:
        return IP(src=self.source, dst=self.target, ttl=ttl, tos=tos, id=number + 1, flags="DF")


@dataclass(frozen=True, slots=True)
class Heard:
    """What a received packet answers, and how what it quotes differs from what was sent."""

    number: int
    reply: Reply
    changes: tuple[str, ...] = ()


def read(flow: Flow, data: bytes) -> Heard | None:
    """Return what a received IP packet answers of `flow`, None if nothing; arbitrary bytes never raise."""
    try:
        packet = IP(data)
        return _read_tcp(flow, packet) if TCP in packet else _read_icmp(flow, packet) if ICMP in packet else None
    except Exception:  # noqa: BLE001 (scapy's dissectors raise whatever a strange packet leads to)
        return None


def _read_tcp(flow: Flow, packet: Any) -> Heard | None:
    tcp = packet[TCP]
    if packet.src != flow.target or tcp.dport != flow.own:
        return None
    flags = int(tcp.flags)
    answer = "tcp_open" if flags & _SYN_ACK == _SYN_ACK else "tcp_closed" if flags & _RST else ""
    return Heard(tcp.ack - 1 - SERIAL_BASE, Reply(packet.src, answer)) if answer else None


def _read_icmp(flow: Flow, packet: Any) -> Heard | None:
    icmp = packet[ICMP]
    if icmp.type == _ECHO_REPLY and packet.src == flow.target and icmp.id == flow.own:
        return Heard(icmp.seq, Reply(packet.src, "echo_reply"))
    if icmp.type not in _ERRORS or IPerror not in icmp or packet.src == flow.source != flow.target:
        return None
    quoted = icmp[IPerror]
    if quoted.dst != flow.target:
        return None
    number = _number(flow, quoted)
    if number is None:
        return None
    answer = answer_name(icmp.type, icmp.code)
    mtu_bytes = icmp.nexthopmtu or None if answer == TOO_BIG else None
    return Heard(number, Reply(packet.src, answer, mtu_bytes), changes(flow, quoted))


def _number(flow: Flow, quoted: Any) -> int | None:
    """Return the number of the quoted packet by its first 8 bytes: scapy reads no TCP header that is cut short."""
    begin = bytes(quoted.payload)[: _BEGIN.size]
    if quoted.proto == socket.IPPROTO_TCP:
        return int(_BEGIN.unpack(begin)[1]) - SERIAL_BASE
    own, number = _BEGIN_ECHO.unpack(begin)
    return int(number) if quoted.proto == socket.IPPROTO_ICMP and own == flow.own else None


def changes(flow: Flow, quoted: Any) -> tuple[str, ...]:
    """Return what the quoted packet has otherwise than it was sent with, as far as it is quoted."""
    found = []
    if quoted.src != flow.source:
        found.append(f"alamat asal / source {flow.source} → {quoted.src} (NAT)")
    if quoted.tos >> 2 != DSCP:
        found.append(f"DSCP {DSCP} → {quoted.tos >> 2}")
    if TCPerror in quoted:
        tcp = quoted[TCPerror]
        if tcp.sport != flow.own:
            found.append("port asal / source port (NAT)")
        mss = dict(option for option in tcp.options or [] if len(option) == 2).get("MSS")  # noqa: PLR2004 (a pair)
        if mss is not None and mss != MSS_BYTES:
            found.append(f"MSS {MSS_BYTES} → {mss}")
    return tuple(found)


class RawWire:
    """Sends what `build` makes of a number and a time to live; a `Wire`, and a context that closes its sockets.

    `changes` gathers what routers quoted otherwise than it was sent, each with the first router that did.
    """

    def __init__(self, flow: Flow, build: Callable[[int, int], Any]) -> None:
        self._flow, self._build = flow, build
        self._sent_ns: dict[int, int] = {}
        self.changes: dict[str, str] = {}
        self._out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._out.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _PROBE)
        self._ins = [
            socket.socket(socket.AF_INET, socket.SOCK_RAW, p) for p in (socket.IPPROTO_ICMP, socket.IPPROTO_TCP)
        ]
        for sock in (self._out, *self._ins):
            sock.setblocking(False)
            bind_to(sock, flow.interface)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._out, *self._ins):
            sock.close()

    def send(self, number: int, ttl: int) -> None:
        """Send one packet; OSError when it did not leave this machine."""
        data = bytes(self._build(number, ttl))
        self._sent_ns[number] = time.monotonic_ns()
        self._out.sendto(data, (self._flow.target, 0))

    def receive(self, timeout_s: float) -> list[tuple[int, Reply, int]]:
        """Return what answered: number, reply, round trip in µs. It returns with the first, or after `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        heard: list[tuple[int, Reply, int]] = []
        while not heard:
            ready, _, _ = select.select(self._ins, [], [], max(0.0, until_s - time.monotonic()))
            if not ready:
                break
            for sock in ready:
                heard += self._take(sock)
        return heard

    def forget(self, number: int) -> None:
        """Wait no longer for an answer to `number`."""
        self._sent_ns.pop(number, None)

    def _take(self, sock: socket.socket) -> list[tuple[int, Reply, int]]:
        heard = []
        while (data := _datagram(sock)) is not None:
            now_ns = time.monotonic_ns()
            said = read(self._flow, data)
            if said is None or said.number not in self._sent_ns:
                continue
            for change in said.changes:
                self.changes.setdefault(change, said.reply.address)
            heard.append((said.number, said.reply, (now_ns - self._sent_ns.pop(said.number)) // 1000))
        return heard


def _datagram(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(_MAX_BYTES)
    except BlockingIOError:
        return None
