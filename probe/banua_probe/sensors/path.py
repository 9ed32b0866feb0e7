"""`path`: trains of round trips to a target (RFC 2681), by ICMP echo or by TCP connect.

The first packet of a train may wake the radio; its round trip is kept apart. What was never sent is not lost: a packet
that the interface took without a carrier was not sent. Where ICMP is not permitted nothing was measured.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from banua_probe.config import PathTarget
from banua_probe.sensors.bound import NeverLeftError, NotSentError, bind_to, connect_within, who
from banua_probe.sensors.icmp import NotPermitted, Train, run_train
from banua_probe.sensors.names import Address, Names
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

TIMEOUT_S: Final = 3.0
"""T_max: what takes longer is lost."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a train needs of the world: names, ICMP trains, and waiting."""

    names: Names = field(default_factory=Names)
    echo: Callable[..., Train] = run_train
    sleep: Callable[[float], None] = time.sleep


def measure(target: PathTarget, boottime_ms: Callable[[], int], interface: str = "", tools: Tools | None = None) -> Row:
    """Run one train to `target`, bound to `interface` if one is given, and return its row.

    When the target's name does not resolve, the train goes to the last address it is known to have stood for, and
    `reason` says so; with none known nothing was sent, and it is not measured.
    """
    tools = tools or Tools()
    started_ms = boottime_ms()
    values = who("path", target, interface)
    try:
        address, note = tools.names.address(target.host)
        values["address"] = address[0]
        by_method = _by_icmp if target.method == "icmp" else _by_tcp
        values |= by_method(target, address, interface, tools)
        if note:
            values["reason"] = f"{values['reason']}; {note}" if "reason" in values else note
    except (NotPermitted, NotSentError) as error:
        values |= {"outcome": "not_measured", "reason": str(error)}
    return Row("path", started_ms, within_dictionary("path", values))


def _by_icmp(target: PathTarget, address: Address, interface: str, tools: Tools) -> dict[str, Value]:
    train = tools.echo(
        *address,
        count=target.count,
        interval_s=target.interval_ms / 1000,
        payload_bytes=target.payload_bytes,
        timeout_s=TIMEOUT_S,
        interface=interface,
    )
    values = train_values(train.rtt_us, train.timestamp_source, train.reason or "no reply", stopped=bool(train.reason))
    values |= {"payload_bytes": target.payload_bytes, "interval_ms": target.interval_ms}
    values |= {"reply_ttl": train.reply_ttl} if train.reply_ttl is not None else {}
    values |= {name: n for name, n in (("duplicates", train.duplicates), ("late", train.late)) if n}
    return values


def _by_tcp(target: PathTarget, address: Address, interface: str, tools: Tools) -> dict[str, Value]:
    rtts: list[float | None] = []
    for number in range(target.count + 1):
        if number:
            tools.sleep(target.interval_ms / 1000)
        try:
            rtts.append(connect_once(address, target.port, interface))
        except OSError as error:
            reason = f"not sent: {error.strerror}"
            if not rtts:
                raise NotSentError(reason) from error
            return train_values(rtts, "user", reason, stopped=True)
    return train_values(rtts, "user", "no connect succeeded")


def connect_once(address: Address, port: int, interface: str = "") -> float | None:
    """Return the time of one TCP connect to `address` in µs, None when refused or over TIMEOUT_S.

    OSError when it never left this machine: no route, no address, no carrier, no such interface, not permitted.
    """
    host, family = address
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        bind_to(sock, interface)
        try:
            return connect_within(sock, (host, port), TIMEOUT_S) / 1000
        except NeverLeftError:
            raise
        except OSError:
            return None


def train_values(rtts: Sequence[float | None], source: str, reason: str, *, stopped: bool = False) -> dict[str, Value]:
    """Return what a train says: its first round trip as `wake_rtt_us`, the others in send order, None where lost.

    `reason` is told when nothing came back, or when the train was `stopped` early.
    """
    measured = any(rtt is not None for rtt in rtts)
    values: dict[str, Value] = {"outcome": "measured" if measured else "failed", "timestamp_source": source}
    if rtts:
        values["rtt_us"] = list(rtts[1:])
        if rtts[0] is not None:
            values["wake_rtt_us"] = rtts[0]
    if stopped or not measured:
        values["reason"] = reason
    return values
