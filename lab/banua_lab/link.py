"""A link emulator in user space: two TUN devices in two network namespaces, and a `Line` for each direction.

The log is the truth of a trial: what came in, what became of it and when it went out, one JSON line for each delivery.
It is kept in memory and written at the end, so that writing does not delay packets.
"""

import contextlib
import fcntl
import gc
import heapq
import ipaddress
import os
import select
import shutil
import signal
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from banua_lab.impairment import Fate, Line, Packet, Profile, describe

DIRECTIONS: Final = ("a-b", "b-a")

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_SPIN_NS: Final = 250_000
_QUIET_NS: Final = 3_000_000
_LONGEST_WAIT_NS: Final = 1_000_000_000
_BUFFERED_MAX: Final = 100_000
_CHUNK: Final = 32


class LinkError(Exception):
    """A link that cannot be made or kept up; the message is one line."""


class End(NamedTuple):
    """One end of the link: the namespace, the device in it, its addresses and the device's file descriptor."""

    netns: str
    device: str
    addresses: tuple[str, ...]
    fd: int


class Entry(msgspec.Struct, omit_defaults=True):
    """One line of the log; what a packet does not have, or has not done, is left out.

    Times are CLOCK_MONOTONIC: `t_in_ns` right after the packet was read from one device, `t_out_ns` right before it was
    written to the other, `due_ns` when it should have been. A duplicate has an entry of its own, `copy` 1.
    """

    direction: str
    t_in_ns: int
    fate: Fate
    size: int
    due_ns: int | None = None
    t_out_ns: int | None = None
    copy: int = 0
    reordered: bool = False
    protocol: int | None = None
    port: int | None = None
    icmp_type: int | None = None
    icmp_id: int | None = None
    icmp_seq: int | None = None


class _Log:
    """Keeps entries in memory, at most `_BUFFERED_MAX`, and writes them out when told."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: deque[Entry] = deque()
        self._encode = msgspec.json.Encoder().encode

    def add(self, entry: Entry) -> None:
        if len(self._entries) >= _BUFFERED_MAX:
            self.write(_CHUNK)
        self._entries.append(entry)

    @property
    def filling(self) -> bool:
        """Whether a quiet moment should be used for writing."""
        return len(self._entries) > _BUFFERED_MAX // 2

    def write(self, entries: int = _BUFFERED_MAX) -> None:
        count = min(entries, len(self._entries))
        self._file.writelines(self._encode(self._entries.popleft()) + b"\n" for _ in range(count))


class Emulator:
    """Moves packets between two ends until `stop_fd` becomes readable.

    Everything is bounded: packets under way by the lines, the log in memory by writing it out.
    """

    def __init__(
        self, ends: tuple[End, End], profiles: tuple[Profile, Profile], seed: int, log: BinaryIO, mtu: int
    ) -> None:
        self.started_ns = time.monotonic_ns()
        lines = [
            Line(profile, f"{seed}/{way}", self.started_ns) for profile, way in zip(profiles, DIRECTIONS, strict=True)
        ]
        (a, b), (there, back) = ends, lines
        self._routes = {a.fd: (DIRECTIONS[0], there, b.fd), b.fd: (DIRECTIONS[1], back, a.fd)}
        self._due: list[tuple[int, int, int, bytes, Entry]] = []
        self._count = 0
        self._log = _Log(log)
        self._mtu = mtu

    def run(self, stop_fd: int) -> None:
        """Serve; raises `LinkError` when a device goes away. All entries are written in the end, also then."""
        watched = [*self._routes, stop_fd]
        heard_ns = 0
        try:
            while True:
                now_ns = self._deliver_due()
                wait_ns = min(self._due[0][0] - now_ns, _LONGEST_WAIT_NS) if self._due else _LONGEST_WAIT_NS
                if self._log.filling and min(wait_ns, now_ns - heard_ns) > _QUIET_NS:
                    self._log.write(_CHUNK)
                    wait_ns = 0
                # the last stretch is spent asking without waiting: a sleep ends late
                ready, _, _ = select.select(watched, [], [], max(0, wait_ns - _SPIN_NS) / 1e9)
                if stop_fd in ready:
                    return
                for fd in ready:
                    self._take(fd)
                    heard_ns = now_ns
        finally:
            for *_, entry in sorted(self._due):
                entry.fate = Fate.STOPPED
                self._log.add(entry)
            self._log.write()

    def _take(self, fd: int) -> None:
        """Read one packet and decide on it."""
        try:
            raw = os.read(fd, self._mtu)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkError(f"the link is down: its device is gone ({error.strerror})") from error
        now_ns = time.monotonic_ns()
        direction, line, out = self._routes[fd]
        packet = describe(raw)
        for delivery in line.offer(packet, now_ns):
            entry = _entry(direction, now_ns, packet)
            entry.fate, entry.due_ns, entry.copy, entry.reordered = delivery
            if delivery.due_ns is None:
                self._log.add(entry)
            else:
                self._count += 1
                heapq.heappush(self._due, (delivery.due_ns, self._count, out, raw, entry))

    def _deliver_due(self) -> int:
        """Write out what is due; return the time."""
        while True:
            now_ns = time.monotonic_ns()
            if not self._due or self._due[0][0] > now_ns:
                return now_ns
            _, _, out, raw, entry = heapq.heappop(self._due)
            entry.t_out_ns = time.monotonic_ns()
            try:
                os.write(out, raw)
            except OSError:
                entry.fate, entry.t_out_ns = Fate.REFUSED, None
            self._log.add(entry)


def _entry(direction: str, t_in_ns: int, packet: Packet) -> Entry:
    return Entry(
        direction, t_in_ns, Fate.SENT, packet.size, protocol=packet.protocol, port=packet.port,
        icmp_type=packet.icmp_type, icmp_id=packet.icmp_id, icmp_seq=packet.icmp_seq,
    )  # fmt: skip


@contextlib.contextmanager
def tun(netns: str, device: str, addresses: tuple[str, ...], mtu: int) -> Iterator[End]:
    """Make a TUN device in a namespace, with addresses as ``10.77.0.1/30``; it is gone after the context.

    Raises `LinkError`; needs root.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise LinkError(f"/dev/net/tun: {error.strerror}; a link needs root and TUN") from error
    try:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            raise LinkError(f"no TUN device {device}: {error.strerror}; a link needs root") from error
        _ip("link", "set", device, "netns", netns)
        # no address of its own making: the kernel would then send packets nobody asked for
        _ip("-n", netns, "link", "set", device, "mtu", str(mtu), "addrgenmode", "none")
        for address in addresses:
            _ip("-n", netns, "address", "add", address, "dev", device)
        _ip("-n", netns, "link", "set", device, "up")
        yield End(netns, device, addresses, fd)
    finally:
        os.close(fd)


def _ip(*words: str) -> None:
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise LinkError("ip is missing; install iproute2")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise LinkError(f"ip {' '.join(words)}: {' '.join(done.stderr.split())}")


def serve(
    netns: tuple[str, str],
    subnets: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
    profiles: tuple[Profile, Profile],
    *,
    seed: int,
    mtu: int,
    log_path: str | Path,
) -> int:
    """Emulate a link between two namespaces until SIGTERM or SIGINT, then return 0; from the main thread only.

    The first end gets the first address of each subnet, the second end the second. The first profile is for the
    direction from the first end to the second. Raises `LinkError`, and `OSError` for the log.
    """
    first = tuple(f"{subnet[1]}/{subnet.prefixlen}" for subnet in subnets)
    second = tuple(f"{subnet[2]}/{subnet.prefixlen}" for subnet in subnets)
    with (
        _stop_signal() as stop_fd,
        Path(log_path).open("wb") as log,
        tun(netns[0], f"bl{os.getpid()}a", first, mtu) as a,
        tun(netns[1], f"bl{os.getpid()}b", second, mtu) as b,
    ):
        emulator = Emulator((a, b), profiles, seed, log, mtu)
        _hurry()
        shown = (f"{end.netns} {end.device} {','.join(end.addresses)}" for end in (a, b))
        print("link up:", " -> ".join(shown), "since", emulator.started_ns, flush=True)
        emulator.run(stop_fd)
    return 0


@contextlib.contextmanager
def _stop_signal() -> Iterator[int]:
    """Return a file descriptor that becomes readable at SIGTERM or SIGINT."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def _hurry() -> None:
    """Make delays of our own rare: no garbage collection, and ahead of ordinary processes where that is allowed."""
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
