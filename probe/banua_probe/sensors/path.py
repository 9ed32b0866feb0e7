"""`path` by method tcp: how long a TCP connect takes, which is one round trip (RFC 2681) plus the stacks' own time."""

import errno
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from banua_probe.config import PathTarget
from banua_wire.fields import Value
from banua_wire.rows import Row

TIMEOUT_S: Final = 3.0
"""T_max: a connect that takes longer is lost."""

_NEVER_LEFT: Final = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES})
"""Errors of our own machine: nothing was sent, so nothing can have been lost."""

Resolve = Callable[[str, int], list[Any]]


def _resolve(host: str, port: int) -> list[Any]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def connect_once(address: tuple[str, int], family: socket.AddressFamily) -> float | None:
    """Return the time of one TCP connect to `address` in µs, None when refused or over TIMEOUT_S.

    OSError when it never left this machine: no route, no address, not permitted.
    """
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        before = time.monotonic_ns()
        try:
            sock.connect(address)
        except OSError as error:
            if error.errno in _NEVER_LEFT:
                raise
            return None
        return (time.monotonic_ns() - before) / 1000


def measure(
    target: PathTarget,
    boottime_ms: Callable[[], int],
    sleep: Callable[[float], None],
    resolve: Resolve = _resolve,
) -> Row:
    """Run one train to `target` and return its row; a name that does not resolve is a failure with its reason."""
    started_ms = boottime_ms()
    try:
        found = resolve(target.host, target.port)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
        told = getattr(error, "strerror", None) or error
        return train_row(target, started_ms, [], reason=f"name not resolved: {told}")
    family, address = found[0], found[4][:2]
    rtts: list[float | None] = []
    for number in range(target.count + 1):
        if number:
            sleep(target.interval_ms / 1000)
        try:
            rtts.append(connect_once((str(address[0]), int(address[1])), family))
        except OSError as error:
            outcome = "failed" if rtts else "not_measured"
            return train_row(target, started_ms, rtts, reason=f"not sent: {error.strerror}", unmeasured=outcome)
    return train_row(target, started_ms, rtts)


def train_row(
    target: PathTarget, boottime_ms: int, rtts: list[float | None], reason: str = "", unmeasured: str = "failed"
) -> Row:
    """Return the row of a train: its first round trip as `wake_rtt_us`, the others in send order, None where lost.

    `unmeasured` is its outcome when nothing came back.
    """
    measured = any(rtt is not None for rtt in rtts)
    values: dict[str, Value] = {
        "target": target.target,
        "method": target.method,
        "outcome": "measured" if measured else unmeasured,
        "timestamp_source": "user",
    }
    if rtts:
        values["rtt_us"] = list(rtts[1:])
        if rtts[0] is not None:
            values["wake_rtt_us"] = rtts[0]
    if reason or not measured:
        values["reason"] = (reason or "no connect succeeded")[:200]
    return Row("path", boottime_ms, values)
