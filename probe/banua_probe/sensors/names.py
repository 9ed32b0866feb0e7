"""Where a target is: the address that its name stands for, or the last one it stood for.

That a look-up fails says nothing of the path to the target; the `dns` sensor is what measures names.
"""

import socket
from collections.abc import Callable
from typing import Any, Final

from banua_probe.sensors.bound import NotSentError

LAST_KNOWN: Final = "name not resolved; last known address used"

Address = tuple[str, socket.AddressFamily]
Resolve = Callable[[str], list[Any]]


def system_resolve(host: str) -> list[Any]:
    """Return the addresses of `host` as the system's resolver gives them, the preferred one first; OSError."""
    return list(socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM))


class Names:
    """Looks names up, and remembers in memory the last address of each. Threads may share one."""

    def __init__(self, resolve: Resolve = system_resolve) -> None:
        self._resolve = resolve
        self._last: dict[str, Address] = {}

    def address(self, host: str) -> tuple[Address, str]:
        """Return the address of `host` and "", or its last known one and LAST_KNOWN when it is not resolved now.

        NotSentError when no address is known.
        """
        try:
            family, *_, sockaddr = self._resolve(host)[0]
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
            if host in self._last:
                return self._last[host], LAST_KNOWN
            raise NotSentError(f"name not resolved: {getattr(error, 'strerror', None) or error}") from error
        address = self._last[host] = (str(sockaddr[0]), family)
        return address, ""
