"""Network namespaces for a test: made under names of our own, wired, routed, and gone afterwards.

    with Namespaces() as net:
        probe, router, server = net.add("probe"), net.add("r1"), net.add("server")
        first = net.wire(probe, router, "10.77.0.0/30")
        second = net.wire(router, server, "10.77.1.0/30", mtu=1300)
        net.forward(router)
        net.route(probe, "default", via=first.address_b)
        net.route(server, "default", via=second.address_a)
        probe.run(["ping", "-c", "1", second.address_b])

`chain` builds the above with any number of routers; `Link` puts the link emulator between two namespaces. It all needs
root: `NeedsRootError` says so before anything is made.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tests.real.parts import require_real

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LABEL: Final = re.compile(r"[a-z][a-z0-9]{0,9}")
_GRACE_S: Final = 5
_COUNTER: Final = itertools.count(1)


def lab(*words: str) -> list[str]:
    """Return the command that runs ``banua-lab`` with this interpreter, such as ``fault dns --port 53``."""
    return [sys.executable, "-c", "import sys; from banua_lab.cli import main; sys.exit(main())", *words]


def probe_command(*words: str) -> list[str]:
    """Return the command that runs ``banua-probe`` with this interpreter, every warning an error."""
    code = "import sys; from banua_probe.cli import main; sys.exit(main())"
    return [sys.executable, "-W", "error", "-c", code, *words]


NOBODY: Final = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
"""What runs the command behind it without privileges."""


class NeedsRootError(RuntimeError):
    """Network namespaces cannot be made, because this process is not root."""


class Namespace:
    """One network namespace with its loopback up. `name` is what ``ip netns`` calls it, `label` what the test does."""

    def __init__(self, label: str, name: str, ip: str) -> None:
        self.label, self.name, self._ip = label, name, ip
        self._processes: list[subprocess.Popen[Any]] = []

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` inside; its process is the program itself, not a parent of it."""
        return [self._ip, "netns", "exec", self.name, *words]

    def run(
        self, words: Sequence[str], *, check: bool = True, timeout_s: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `words` inside to their end and return what they said; `options` are those of `subprocess.run`.

        Raises `RuntimeError` with the output when the exit code is not 0, unless `check` is false.
        """
        return _run(self.command(words), check=check, timeout_s=timeout_s, **options)

    def popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `words` inside; what still runs when the namespaces are removed is ended then."""
        process = subprocess.Popen(self.command(words), **({"stdin": subprocess.DEVNULL} | options))
        self._processes.append(process)
        return process

    def serve(self, words: Sequence[str], ready_s: float = 20) -> subprocess.Popen[str]:
        """Start a server inside, and return once it has said its first line; as `popen` otherwise.

        Raises `RuntimeError` when it says none in time. Its further output is not read.
        """
        process = self.popen(words, stdout=subprocess.PIPE, text=True)
        _first_line(process, ready_s)
        return process

    def sysctl(self, key: str, value: str | int) -> None:
        """Set a kernel setting of this namespace, such as ``net.ipv4.ping_group_range`` to ``0 2147483647``."""
        path = "/proc/sys/" + key.replace(".", "/")
        self.run(["sh", "-c", 'printf "%s" "$1" > "$0"', path, str(value)])

    def ip(self, *words: str) -> str:
        """Return what ``ip`` with these words says of this namespace; raises `RuntimeError`."""
        return _run([self._ip, "-n", self.name, *words]).stdout

    def block_port(self, protocol: str, port: int, how: str = "blackhole") -> None:
        """Drop what this namespace forwards or sends to a destination port (`protocol` is tcp or udp).

        `how` is a type of ``ip rule``: ``blackhole`` is silent, ``prohibit`` and ``unreachable`` answer with ICMP. What
        is addressed to the namespace itself is not dropped: block at a router, or at the emulator (`Link`).
        """
        self.ip("rule", "add", "ipproto", protocol, "dport", str(port), how)

    def end(self) -> None:
        """End what `popen` started."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()


class Wire(NamedTuple):
    """A veth pair between two namespaces: the devices, and their addresses without the prefix length."""

    device_a: str
    device_b: str
    address_a: str
    address_b: str


class Namespaces:
    """Makes namespaces, and removes them at the end of the context with all that is in them, also after a failure.

    Raises `NeedsRootError` when entered without root. Names are ``banua-PID-COUNT-LABEL``: no two runs meet.
    """

    def __init__(self) -> None:
        self.prefix = f"banua-{os.getpid()}-{next(_COUNTER)}-"
        self.made: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NeedsRootError("network namespaces need root")
        self._ip = require_real("ip")
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in self.made.values():
            namespace.end()
        tried = [_run([self._ip, "netns", "delete", made.name], check=False) for made in self.made.values()]
        self.made.clear()
        if any(done.returncode for done in tried):
            raise RuntimeError("".join(done.stderr for done in tried))

    def add(self, label: str) -> Namespace:
        """Return a new namespace; a label is up to ten small letters and digits, and raises `ValueError` otherwise."""
        if not _LABEL.fullmatch(label) or label in self.made:
            raise ValueError(f"{label!r} is no label, or is taken")
        namespace = Namespace(label, self.prefix + label, self._ip)
        _run([self._ip, "netns", "add", namespace.name])
        self.made[label] = namespace
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def __getitem__(self, label: str) -> Namespace:
        return self.made[label]

    def wire(self, a: Namespace, b: Namespace, subnet: str, *, mtu: int = 1500) -> Wire:
        """Connect two namespaces: `a` gets the first address of `subnet` (IPv4 or IPv6), `b` the second."""
        network = ipaddress.ip_network(subnet)
        wire = Wire(f"to-{b.label}", f"to-{a.label}", str(network[1]), str(network[2]))
        peer = ("peer", "name", wire.device_b, "netns", b.name)
        a.ip("link", "add", wire.device_a, "mtu", str(mtu), "type", "veth", *peer)
        for namespace, device, address in ((a, wire.device_a, wire.address_a), (b, wire.device_b, wire.address_b)):
            self.address(namespace, device, f"{address}/{network.prefixlen}")
            namespace.ip("link", "set", device, "mtu", str(mtu), "up")
        return wire

    def address(self, namespace: Namespace, device: str, address: str) -> None:
        """Give a device one more address, such as ``fd77::1/64``; it can be used at once."""
        nodad = ("nodad",) if ":" in address else ()
        namespace.ip("address", "add", address, "dev", device, *nodad)

    def forward(self, *routers: Namespace) -> None:
        """Make namespaces forward IPv4 and IPv6, and answer every packet that ends there: no limit on ICMP errors."""
        for router in routers:
            router.sysctl("net.ipv4.ip_forward", 1)
            router.sysctl("net.ipv4.icmp_ratelimit", 0)
            router.sysctl("net.ipv6.conf.all.forwarding", 1)
            router.sysctl("net.ipv6.icmp.ratelimit", 0)

    def route(self, namespace: Namespace, destination: str, *, via: str) -> None:
        """Route `destination` (a subnet or ``default``) over the neighbour `via`."""
        family = "-6" if ":" in via else "-4"
        namespace.ip(family, "route", "add", destination, "via", via)


class Chain(NamedTuple):
    """A path from `probe` to `server`; `hops` are the addresses that a traceroute sees, the server's last."""

    probe: Namespace
    server: Namespace
    hops: list[str]


def chain(net: Namespaces, routers: int, mtu_at: Mapping[int, int] | None = None) -> Chain:
    """Build probe – r1 – … – server with so many routers (1…200), ``10.77.I.0/30`` on wire I, counted from 0.

    `mtu_at` gives wires another MTU than 1500. ``net["r1"]`` is the first router.
    """
    line = [net.add("probe"), *(net.add(f"r{i}") for i in range(1, routers + 1)), net.add("server")]
    mtus = mtu_at or {}
    wires = [
        net.wire(a, b, f"10.77.{i}.0/30", mtu=mtus.get(i, 1500)) for i, (a, b) in enumerate(itertools.pairwise(line))
    ]
    net.forward(*line[1:-1])
    for node, wire in zip(line, wires, strict=False):
        net.route(node, "default", via=wire.address_b)
    for i, node in enumerate(line[1:], start=1):
        for before in range(i - 1):
            net.route(node, f"10.77.{before}.0/30", via=wires[i - 1].address_a)
    return Chain(line[0], line[-1], [wire.address_b for wire in wires])


class Link:
    """The link emulator between two namespaces, for as long as the context is entered.

    `process` is the emulator; `started_ns` is its start on CLOCK_MONOTONIC, from which outages count.
    `a` gets `address_a`, `b` gets `address_b`, the first two of `subnet`, on the devices `device_a` and `device_b`.
    `profile` is what ``banua-lab link`` takes, with underscores: ``delay_ms=40, jitter_ms=0, loss=0.1, duplicate=0,
    reorder=0, rate_kbit=0, queue_packets=100, outage=[(1, 2.5)], block_port=["udp/443"], seed=1, mtu=1500``. A pair
    instead of a number is for the direction from a to b and the one from b to a.
    """

    def __init__(
        self, net: Namespaces, a: Namespace, b: Namespace, subnet: str = "10.77.255.0/30", **profile: Any
    ) -> None:
        network = ipaddress.ip_network(subnet)
        self.address_a, self.address_b = str(network[1]), str(network[2])
        self._folder = tempfile.TemporaryDirectory(prefix=net.prefix)
        self._log = Path(self._folder.name) / "link.jsonl"
        self._words = ["link", "--a", a.name, "--b", b.name, "--net", subnet, "--log", str(self._log)]
        for name, value in profile.items():
            for text in _texts(name, value):
                self._words += ["--" + name.replace("_", "-"), text]
        self._entries: list[dict[str, Any]] | None = None

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            lab(*self._words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            said = _first_line(self.process, 20).split()
        except RuntimeError as error:
            self.process.kill()
            _, errors = self.process.communicate()
            self._folder.cleanup()
            raise RuntimeError(f"the link did not come up: {errors}") from error
        self.device_a, self.device_b, self.started_ns = said[3], said[7], int(said[-1])
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def stop(self) -> None:
        """End the emulator and read its log; both devices go with it. Does nothing the second time."""
        if self._entries is not None:
            return
        self.process.terminate()
        try:
            _, errors = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        self._entries = [json.loads(line) for line in self._log.read_text().splitlines()]
        if self.process.returncode != 0:
            raise RuntimeError(f"the link failed: {errors}")

    def log(self, **having: Any) -> list[dict[str, Any]]:
        """Return the entries of the log whose fields have these values, such as ``fate="lost"``; only once stopped."""
        if self._entries is None:
            raise RuntimeError("the log is complete only once the link is stopped")
        return [entry for entry in self._entries if all(entry.get(name) == value for name, value in having.items())]


def _first_line(process: subprocess.Popen[Any], within_s: float) -> str:
    """Return the first line that a process says on its standard output; raises `RuntimeError` when there is none."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within_s)
    line = str(process.stdout.readline()) if ready else ""
    if not line:
        raise RuntimeError(f"nothing said within {within_s:g} s: {process.args!r}")
    return line


def _texts(name: str, value: Any) -> list[str]:
    """Return how the command line says a value of a profile: once, or once for each of several."""
    if name == "outage":
        return [f"{start_s}-{end_s}" for start_s, end_s in value]
    if name == "block_port":
        return [str(port) for port in value]
    return ["/".join(str(part) for part in value) if isinstance(value, tuple) else str(value)]


def _run(
    command: Sequence[str], *, check: bool = True, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with its output caught as text; raise `RuntimeError` with it when it fails."""
    usual = {"stdin": subprocess.DEVNULL} if "input" not in options else {}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, **(usual | options))
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done
