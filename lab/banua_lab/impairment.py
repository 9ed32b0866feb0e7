"""What one direction of an emulated link does to a packet: pure, so that it is tested with moments that are made up.

A `Line` is told of each packet as it arrives and says what becomes of it and when. It draws the same number of random
values for every packet, so that the fate of the n-th packet hangs on the seed and not on when it came.
"""

import heapq
import random
from collections import deque
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

UNDER_WAY_MAX: Final = 10_000

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
_ICMP: Final = 1
_ICMPV6: Final = 58
_PORTED: Final = {6: "tcp", 17: "udp"}
_ECHOES: Final = {_ICMP: (0, 8), _ICMPV6: (128, 129)}
_IPV4_HEADER: Final = 20
_IPV6_HEADER: Final = 40
_ECHO_HEADER: Final = 8


class Fate(StrEnum):
    """What became of a packet; the last two are the shell's: not taken by the other device, under way at the end."""

    SENT = "sent"
    BLOCKED = "blocked"
    OUTAGE = "outage"
    LOST = "lost"
    QUEUE_FULL = "queue_full"
    REFUSED = "refused"
    STOPPED = "stopped"


class Profile(msgspec.Struct, frozen=True):
    """How one direction behaves; the default is a perfect wire.

    `jitter_ms` is the most by which a packet's delay differs from `delay_ms`, either way and uniformly; packets may
    overtake each other by it. A packet that is reordered is sent without the delay. Each packet is drawn for `loss`,
    `duplicate` and `reorder`, probabilities, on its own. `outages` are (start, end) in seconds from the start.
    `rate_kbit` is in kbit/s of IP packets, 0 for no limit; `queue_packets` may be in its queue, the one being sent
    included. `blocked` holds destination ports as ("udp", 443).
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rate_kbit: int = 0
    queue_packets: int = 100
    outages: tuple[tuple[float, float], ...] = ()
    blocked: frozenset[tuple[str, int]] = frozenset()


class Packet(NamedTuple):
    """What a log says of an IP packet; a field that it does not have, or that cannot be read, is None."""

    size: int
    protocol: int | None = None
    port: int | None = None
    icmp_type: int | None = None
    icmp_id: int | None = None
    icmp_seq: int | None = None


class Delivery(NamedTuple):
    """One thing that becomes of a packet; `due_ns` only where it is to be sent. `copy` 1 is a duplicate's second."""

    fate: Fate
    due_ns: int | None = None
    copy: int = 0
    reordered: bool = False


def describe(packet: bytes) -> Packet:
    """Read an IPv4 or IPv6 packet. Only a first fragment has a port or an echo; IPv6 extension headers are not read."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER:  # noqa: PLR2004 (the version's name is its number)
        first_fragment = not int.from_bytes(packet[6:8], "big") & 0x1FFF
        protocol, payload = packet[9], packet[(packet[0] & 0x0F) * 4 :] if first_fragment else b""
    elif version == 6 and len(packet) >= _IPV6_HEADER:  # noqa: PLR2004
        protocol, payload = packet[6], packet[_IPV6_HEADER:]
    else:
        return Packet(len(packet))
    if protocol in _PORTED and len(payload) >= 4:  # noqa: PLR2004 (two ports)
        return Packet(len(packet), protocol, port=int.from_bytes(payload[2:4], "big"))
    if len(payload) >= _ECHO_HEADER and payload[0] in _ECHOES.get(protocol, ()):
        number, seq = int.from_bytes(payload[4:6], "big"), int.from_bytes(payload[6:8], "big")
        return Packet(len(packet), protocol, icmp_type=payload[0], icmp_id=number, icmp_seq=seq)
    return Packet(len(packet), protocol)


class Line:
    """One direction from `started_ns` on. `seed` decides all that is random; two directions take different ones."""

    def __init__(self, profile: Profile, seed: str, started_ns: int) -> None:
        self._profile = profile
        self._random = random.Random(seed)  # noqa: S311 (a seed)
        self._outages = [(started_ns + round(a * _S), started_ns + round(b * _S)) for a, b in profile.outages]
        self._free_ns = 0
        self._queue: deque[int] = deque()  # when each packet in it has been serialised
        self._under_way: list[int] = []  # a heap: when each packet is due

    def offer(self, packet: Packet, now_ns: int) -> list[Delivery]:
        """Return what becomes of a packet that arrives `now_ns`; calls are in the order of time.

        One delivery, or two where it is duplicated. At most `UNDER_WAY_MAX` are under way.
        """
        profile = self._profile
        loss, duplicate, reorder, *swings = (self._random.random() for _ in range(5))
        if (_PORTED.get(packet.protocol or 0), packet.port) in profile.blocked:
            return [Delivery(Fate.BLOCKED)]
        if any(start_ns <= now_ns < end_ns for start_ns, end_ns in self._outages):
            return [Delivery(Fate.OUTAGE)]
        if loss < profile.loss:
            return [Delivery(Fate.LOST)]
        serialised_ns = self._serialise(packet.size, now_ns)
        if serialised_ns is None:
            return [Delivery(Fate.QUEUE_FULL)]
        reordered = reorder < profile.reorder
        deliveries = []
        for copy in range(2 if duplicate < profile.duplicate else 1):
            due_ns = serialised_ns + (0 if reordered else self._delay_ns(swings[copy]))
            heapq.heappush(self._under_way, due_ns)
            deliveries.append(Delivery(Fate.SENT, due_ns, copy, reordered))
        return deliveries

    def _delay_ns(self, swing: float) -> int:
        """Return the delay for a random value within 0…1."""
        return max(0, round((self._profile.delay_ms + self._profile.jitter_ms * (2 * swing - 1)) * _MS))

    def _serialise(self, size: int, now_ns: int) -> int | None:
        """Return when the last bit of a packet is on the line, or None where there is no room for it."""
        while self._under_way and self._under_way[0] <= now_ns:
            heapq.heappop(self._under_way)
        if len(self._under_way) > UNDER_WAY_MAX - 2:
            return None
        if not self._profile.rate_kbit:
            return now_ns
        while self._queue and self._queue[0] <= now_ns:
            self._queue.popleft()
        if len(self._queue) >= self._profile.queue_packets:
            return None
        # kbit/s is bits per ms: round up, so that the rate is never exceeded
        self._free_ns = max(self._free_ns, now_ns) - (-size * 8 * _MS // self._profile.rate_kbit)
        self._queue.append(self._free_ns)
        return self._free_ns
