"""Ports of loopback for servers that are started here."""

import contextlib
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
_PORTS: Final = (10_000, 32_000)
"""Below those that the kernel gives to outgoing connections: one of these would take it before its server does."""


def free_port() -> int:
    """Return a TCP port of loopback on which nothing listens."""
    while True:
        port = random.randint(*_PORTS)  # noqa: S311 (nobody has to guess it)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind((HOST, port))
            return port
