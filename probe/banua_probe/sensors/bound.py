"""Sockets bound to a network interface, and whether anything left this machine: what was not sent cannot fail."""

import errno
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

from banua_probe.config import Bound
from banua_probe.errors import ProbeError
from banua_probe.sensors.carrier import carrier_state, route_interface
from banua_wire.fields import BY_KIND, Value

NEVER_LEFT: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EHOSTUNREACH,
        errno.EINVAL,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.EPERM,
    }
)
"""What our own kernel says at once when it sends nothing; later, EHOSTUNREACH and ENETUNREACH are a router's words."""

_NAME_BYTES: Final = 16  # IFNAMSIZ


class NeverLeftError(OSError):
    """Of one socket: nothing left this machine, no route, no carrier, not permitted; `strerror` says which."""


class NotSentError(ProbeError):
    """Of a whole train or trace: nothing left this machine, and it is not measured; the message says why."""


def who(kind: str, test: Bound, interface: str) -> dict[str, Value]:
    """Return what names a row of `test`: the key columns of `kind`, and the interface; what is empty is absent."""
    named = {name: getattr(test, name) for name in BY_KIND[kind].key} | {"interface": interface}
    return {name: text for name, text in named.items() if text}


def bind_to(sock: socket.socket, interface: str) -> None:
    """Let `sock` use no interface but `interface`; "": the routes decide. NeverLeftError says why it cannot."""
    if not interface:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise NeverLeftError(errno.ENODEV, f"no interface {interface}") from None
        raise NeverLeftError(error.errno, f"{interface}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Carrier:
    """The carrier of the interface that a test goes over, as it was when the test began."""

    interface: str
    changes: str
    """How often it had been lost and found, as the kernel counts."""

    def check(self) -> None:
        """Raise NeverLeftError when it is lost, or was since: what is unanswered may never have left this machine."""
        there, changes = carrier_state(self.interface)
        if not there:
            raise NeverLeftError(errno.ENETDOWN, f"no carrier on {self.interface}")
        if changes != self.changes:
            raise NeverLeftError(errno.ENETDOWN, f"carrier lost on {self.interface}")


def carrier_of(sock: socket.socket, host: str) -> Carrier:
    """Return the carrier that packets from `sock` to `host`, an IP address, need; NeverLeftError when there is none.

    The interface is the one that `sock` is bound to, or else the one that the routes take.
    """
    bound = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_BYTES).rstrip(b"\0").decode()
    interface = bound or route_interface(host)
    carrier = Carrier(interface, carrier_state(interface)[1])
    carrier.check()
    return carrier


def connect_within(sock: socket.socket, address: Any, timeout_s: float) -> int:
    """Connect a TCP socket to a numeric `address`, leave it non-blocking, and return how long it took in ns.

    NeverLeftError when no packet was sent or the carrier was lost while none came back, TimeoutError after `timeout_s`,
    another OSError for what came back instead.
    """
    sock.setblocking(False)
    carrier = carrier_of(sock, address[0])
    began_ns = time.monotonic_ns()
    code = sock.connect_ex(address)
    if code in NEVER_LEFT:
        raise NeverLeftError(code, os.strerror(code))
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        answered = poll.poll(max(0.0, timeout_s) * 1000)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if answered else errno.ETIMEDOUT
    took_ns = time.monotonic_ns() - began_ns
    if code:
        carrier.check()
        raise OSError(code, os.strerror(code))
    return took_ns
