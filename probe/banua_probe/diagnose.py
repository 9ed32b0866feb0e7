"""What `banua-probe diagnose` says of one path: findings in, text out, in Indonesian first and then in English."""

from dataclasses import dataclass, field
from typing import Final, Literal

from banua_probe.sensors.course import Hop

PortState = Literal["open", "closed", "filtered", "refused"]

_STATES: Final[dict[PortState, tuple[str, str]]] = {
    "open": ("terbuka", "open"),
    "closed": ("tertutup (RST)", "closed (RST)"),
    "filtered": ("disaring (tanpa jawaban)", "filtered (silence)"),
    "refused": ("ditolak", "refused"),
}
_ENDS: Final = frozenset({"time_exceeded", ""})
"""Answers after which a path goes on."""


@dataclass(frozen=True, slots=True)
class Port:
    """What a TCP SYN to one port met; `by` and `answer` say who refused it with which ICMP message."""

    number: int
    state: PortState
    by: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was found out about the path to one target; what could not be is empty or None."""

    name: str
    host: str
    address: str = ""
    interface: str = ""
    source: str = ""
    gateway: str = ""
    problem: str = ""
    """Why nothing was sent; then nothing else was found out."""
    echo_us: list[int | None] = field(default_factory=list)
    """Round trips of ICMP echo in send order, None where lost."""
    ports: list[Port] = field(default_factory=list)
    method: str = ""
    """What the hops were traced with."""
    hops: list[Hop] = field(default_factory=list)
    mtu_bytes: int | None = None
    changes: list[str] = field(default_factory=list)
    """What routers quoted of our packets and differs from what was sent."""

    @property
    def alive(self) -> bool:
        """Whether the target itself answered anything."""
        answered = any(rtt is not None for rtt in self.echo_us) or any(hop.address == self.address for hop in self.hops)
        return answered or any(port.state in {"open", "closed"} for port in self.ports)


def report(findings: Findings) -> str:
    """Return the report on one path, several lines without the last line's end."""
    known = [findings.name, findings.host, *([findings.address] if findings.address else [])]
    lines = [" = ".join(dict.fromkeys(known)) + ":"]
    if not findings.problem:
        via = f", gerbang / gateway {findings.gateway}" if findings.gateway else ", tanpa gerbang / no gateway"
        lines += [f"  antarmuka / interface {findings.interface}, dari / from {findings.source}{via}"]
        lines += [_echo(findings.echo_us), *map(_port, findings.ports)]
        lines += [f"  rute / route ({findings.method}):", *map(_hop, findings.hops)]
        mtu = "tidak diketahui / unknown" if findings.mtu_bytes is None else f"{findings.mtu_bytes} byte"
        lines += [f"  MTU: {mtu}"]
        lines += [f"  berubah di jalan / changed on the way: {change}" for change in findings.changes]
    indonesian, english = verdict(findings)
    return "\n".join([*lines, f"  => {indonesian}", f"     {english}"])


def _echo(echo_us: list[int | None]) -> str:
    back = [rtt for rtt in echo_us if rtt is not None]
    span = f", {_ms(min(back))} – {_ms(max(back))} ms" if back else ""
    return f"  ICMP echo: {len(echo_us)} dikirim / sent, {len(back)} dijawab / answered{span}"


def _port(port: Port) -> str:
    told = f" oleh / by {port.by} ({port.answer})" if port.by else ""
    return f"  TCP {port.number}: {' / '.join(_STATES[port.state])}{told}"


def _hop(hop: Hop) -> str:
    if hop.address is None:
        return f"  {hop.ttl:3}  *"
    times = "  ".join("*" if rtt is None else f"{_ms(rtt)} ms" for rtt in hop.rtt_us)
    return f"  {hop.ttl:3}  {hop.address:15}  {times}" + ("" if hop.answer in _ENDS else f"  {hop.answer}")


def _ms(us: int) -> str:
    return f"{us / 1000:.1f}"


def verdict(findings: Findings) -> tuple[str, str]:
    """Return what the findings come to, in one sentence each of Indonesian and English."""
    if findings.problem:
        return f"Tidak ada yang terkirim: {findings.problem}", f"nothing was sent: {findings.problem}"
    ports = [f"; port {port.number} {_STATES[port.state][0]}" for port in findings.ports]
    in_english = [f"; port {port.number} {_STATES[port.state][1]}" for port in findings.ports]
    if findings.alive:
        return "Target terjangkau" + "".join(ports), "the target is reached" + "".join(in_english)
    last = next((hop for hop in reversed(findings.hops) if hop.address is not None), None)
    if last is None:
        return (
            "Tidak ada satu pun hop yang menjawab: periksa sambungan alat ini sendiri",
            "no hop answered at all: look at this machine's own link first",
        )
    said = "" if last.answer in _ENDS else f", yang menjawab {last.answer}"
    in_english_said = "" if last.answer in _ENDS else f", which answered {last.answer}"
    return (
        f"Rute terputus setelah {last.address} (hop {last.ttl}){said}",
        f"the path ends after {last.address} (hop {last.ttl}){in_english_said}",
    )
