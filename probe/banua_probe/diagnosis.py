"""The runner of `banua-probe diagnose`: it asks the path by raw packets and returns `Findings`. IPv4 only."""

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Final

from banua_probe.diagnose import Findings, Port
from banua_probe.errors import ProbeError
from banua_probe.raw_wire import Flow, RawWire
from banua_probe.sensors import path_mtu
from banua_probe.sensors.course import Course, Limits, Reply, follow
from banua_probe.sensors.path_mtu import MtuSearch
from banua_probe.sensors.traceroute import UdpWire

USUAL_PORTS: Final = (443, 8883)
_ECHOES: Final = 5
_ECHO_GAP_S: Final = 0.2
_SYN_TRIES: Final = 3
_SYN_WAIT_S: Final = 1.0
_LAST_WAIT_S: Final = 2.0
_ECHO_BYTES: Final = 60

_Answers = dict[int, tuple[Reply, int]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What to diagnose: a name for it, the host, the network interface ("": the routes decide), and TCP ports."""

    name: str
    host: str
    interface: str = ""
    ports: tuple[int, ...] = USUAL_PORTS


def check_privileges() -> None:
    """Raise ProbeError when this process may not use raw sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except PermissionError as error:
        raise ProbeError("diagnose needs root or CAP_NET_RAW; `banua-probe trace` does without") from error


def diagnose(subject: Subject) -> Findings:
    """Find out what can be known of the path to `subject`; it takes up to a minute."""
    try:
        infos = socket.getaddrinfo(subject.host, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        told = getattr(error, "strerror", None) or error
        return Findings(subject.name, subject.host, problem=f"name not resolved: {told}")
    address = str(infos[0][4][0])
    try:
        return _explore(subject, address)
    except OSError as error:
        return Findings(subject.name, subject.host, address, problem=error.strerror or str(error))


def _explore(subject: Subject, address: str) -> Findings:
    route = _route(address, subject.interface)
    with (
        socket.socket() as reserved
    ):  # nobody else uses this port meanwhile, and the kernel resets what it did not open
        reserved.bind((route["prefsrc"], 0))
        flow = Flow(route["prefsrc"], address, reserved.getsockname()[1], subject.interface)
        echo_us = _echo(flow)
        ports = _ports(flow, subject.ports)
        method, course, changes = _trace(flow, echo_us, ports)
        mtu_bytes = _mtu(flow, reached=any(echo_us))
    return Findings(
        subject.name,
        subject.host,
        address,
        interface=route["dev"],
        source=route["prefsrc"],
        gateway=route.get("gateway", ""),
        echo_us=echo_us,
        ports=ports,
        method=method,
        hops=course.hops(),
        mtu_bytes=mtu_bytes,
        changes=changes,
    )


def _route(address: str, interface: str) -> dict[str, Any]:
    """Return how the kernel routes to `address`: dev, prefsrc, gateway if there is one; OSError if it does not."""
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise ProbeError("diagnose needs the program ip; apt-get install iproute2")
    words = [program, "-j", "route", "get", address, *(["oif", interface] if interface else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(0, done.stderr.strip().partition("\n")[0].removeprefix("RTNETLINK answers: "))
    return dict(json.loads(done.stdout)[0])


def _echo(flow: Flow) -> list[int | None]:
    with RawWire(flow, flow.echo) as wire:
        answers = _gather(wire, range(_ECHOES), _ECHO_GAP_S)
    good = {number: rtt for number, (reply, rtt) in answers.items() if reply.answer == "echo_reply"}
    return [good.get(number) for number in range(_ECHOES)]


def _gather(wire: RawWire, numbers: range, gap_s: float) -> _Answers:
    """Send these packets, `gap_s` apart, and return what answered up to `_LAST_WAIT_S` after the last."""
    answers: _Answers = {}
    for number in numbers:
        wire.send(number, 64)
        last = number == numbers[-1]
        until_s = time.monotonic() + (_LAST_WAIT_S if last else gap_s)
        while (left_s := until_s - time.monotonic()) > 0 and not (last and len(answers) == len(numbers)):
            answers.update({n: (reply, rtt) for n, reply, rtt in wire.receive(left_s)})
    return answers


def _ports(flow: Flow, ports: tuple[int, ...]) -> list[Port]:
    """Knock at each port up to three times; packet n goes to port n % len(ports)."""
    said: dict[int, Reply] = {}
    with RawWire(flow, lambda number, ttl: flow.syn(number, ports[number % len(ports)], ttl)) as wire:
        for attempt in range(_SYN_TRIES):
            asked = [index for index in range(len(ports)) if index not in said]
            for index in asked:
                wire.send(attempt * len(ports) + index, 64)
            until_s = time.monotonic() + _SYN_WAIT_S
            while (left_s := until_s - time.monotonic()) > 0 and len(said) < len(ports):
                said.update({number % len(ports): reply for number, reply, _ in wire.receive(left_s)})
    return [_port(number, said.get(index)) for index, number in enumerate(ports)]


def _port(number: int, reply: Reply | None) -> Port:
    if reply is None:
        return Port(number, "filtered")
    if reply.answer in {"tcp_open", "tcp_closed"}:
        return Port(number, "open" if reply.answer == "tcp_open" else "closed")
    return Port(number, "refused", reply.address, reply.answer)


def _trace(flow: Flow, echo_us: list[int | None], ports: list[Port]) -> tuple[str, Course, list[str]]:
    """Trace by SYN to a port that answers, else by echo, and if that meets silence by SYN to the first port."""
    good = [port.number for port in ports if port.state in {"open", "closed"}]
    if good:
        return _trace_by(flow, good[0])
    found = _trace_by(flow, None)
    if any(echo_us) or not ports or any(hop.address for hop in found[1].hops()):
        return found
    return _trace_by(flow, ports[0].number)


def _trace_by(flow: Flow, port: int | None) -> tuple[str, Course, list[str]]:
    course = Course(flow.target, Limits())
    with RawWire(flow, lambda n, ttl: flow.echo(n, ttl) if port is None else flow.syn(n, port, ttl)) as wire:
        follow(course, wire, Limits())
        changes = [f"{change}, {by}" for change, by in wire.changes.items()]
    return "ICMP echo" if port is None else f"TCP SYN {port}", course, changes


def _mtu(flow: Flow, *, reached: bool) -> int | None:
    """Return the path MTU by ICMP echo; `reached` says whether the target answers that."""
    with UdpWire(flow.target, socket.AF_INET, flow.interface) as wire:
        search = MtuSearch(_ECHO_BYTES, wire.local_mtu_bytes())

    def ask(size_bytes: int) -> Reply | None:
        with RawWire(flow, lambda number, ttl: flow.echo(number, ttl, size_bytes)) as wire:
            for number in range(path_mtu.TRIES):
                wire.send(number, 64)
                heard = wire.receive(path_mtu.TRY_WAIT_S)
                if heard:
                    return heard[0][1]
        return None

    return path_mtu.find(ask, search, flow.target, reached=reached)
