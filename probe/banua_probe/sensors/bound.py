"""Sockets bound to a network interface, and whether anything left this machine: what was not sent cannot fail."""

import errno
import os
import select
import socket
from typing import Any, Final

from banua_probe.config import Bound
from banua_probe.errors import ProbeError
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


class NeverLeftError(OSError):
    """Of one socket: nothing left this machine, no route, no such interface, not permitted; `strerror` says which."""


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


def connect_within(sock: socket.socket, address: Any, timeout_s: float) -> None:
    """Connect a TCP socket to a numeric `address` and leave it non-blocking.

    NeverLeftError when no packet was sent, TimeoutError after `timeout_s`, another OSError for what came back instead.
    """
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code in NEVER_LEFT:
        raise NeverLeftError(code, os.strerror(code))
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(max(0.0, timeout_s) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
