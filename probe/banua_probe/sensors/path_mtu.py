"""The largest packet that fits a path (RFC 1191, RFC 8899): what to try next, and when it is known.

Routers that tell the next link's MTU shorten the search. Where they are silent (a black hole) only the target's own
answers tell what fits, and the search is by halves: over the sizes that links usually have first, then byte by byte.
"""

import time
from collections.abc import Callable
from typing import Final

from banua_probe.sensors.course import Reply
from banua_probe.sensors.icmp_error import TOO_BIG

WHOLE_S: Final = 20.0
"""Longest search; one that is not over by then has no result."""
TRIES: Final = 3
"""Packets of one size until it counts as unanswered."""
TRY_WAIT_S: Final = 0.7
"""From one to the next: three span the second in which Linux sends one host at least one ICMP error."""
MAX_BYTES: Final = 65_535
"""The largest IP packet."""

_USUAL: Final = (
    576, 1006, 1200, 1280, 1300, 1320, 1340, 1358, 1372, 1380, 1400, 1412, 1420, 1430, 1440, 1450, 1454, 1460, 1472,
    1476, 1480, 1488, 1492, 1500, 2304, 4352, 9000,
)  # fmt: skip


class MtuSearch:
    """Sizes are bytes of the whole IP packet: `fits_bytes` is known to fit, more than `most_bytes` never left."""

    def __init__(self, fits_bytes: int, most_bytes: int) -> None:
        self._fits, self._too_big = fits_bytes, most_bytes + 1
        self._next: int | None = most_bytes
        self.told_bytes: int | None = None
        """The smallest MTU that a router stated."""

    @property
    def found_bytes(self) -> int | None:
        """The path MTU once it is known to the byte."""
        return self._fits if self._fits + 1 == self._too_big else None

    def next_bytes(self) -> int | None:
        """Return the size to try now; None when the path MTU is known."""
        if self.found_bytes is not None:
            return None
        return self._next or self._middle()

    def answered(self, size_bytes: int) -> None:
        """Note that the target answered a packet of this size."""
        self._fits, self._next = max(self._fits, size_bytes), None

    def silent(self, size_bytes: int) -> None:
        """Note that nothing answered packets of this size."""
        self._too_big, self._next = min(self._too_big, size_bytes), None

    def told(self, size_bytes: int, mtu_bytes: int | None) -> None:
        """Note that a router found this size too big, and its next link to take `mtu_bytes`, if it says so."""
        if mtu_bytes is None or not self._fits < mtu_bytes < size_bytes:
            self.silent(size_bytes)  # too big, but what it states helps nobody
            return
        self.told_bytes = self._next = mtu_bytes
        self._too_big = min(self._too_big, mtu_bytes + 1)

    def _middle(self) -> int:
        usual = [size for size in _USUAL if self._fits < size < self._too_big]
        if usual:
            return usual[len(usual) // 2]
        return self._fits + 1 if self._fits in _USUAL else (self._fits + self._too_big) // 2


def find(
    ask: Callable[[int], Reply | None],
    search: MtuSearch,
    target: str,
    *,
    reached: bool,
    clock_s: Callable[[], float] = time.monotonic,
) -> int | None:
    """Return the path MTU to `target` in bytes of the whole packet, None if it cannot be known within `WHOLE_S`.

    `ask` sends a packet of a size and returns who answered. `reached` says whether the target answers such packets at
    all. If not, silence tells nothing about a size, and the result is the least that routers state: an upper bound.
    """
    deadline_s = clock_s() + WHOLE_S
    while (size_bytes := search.next_bytes()) is not None and clock_s() < deadline_s:
        reply = ask(size_bytes)
        if reply is not None and reply.answer == TOO_BIG:
            search.told(size_bytes, reply.mtu_bytes)
        elif reply is not None and reply.address == target:
            search.answered(size_bytes)
        elif reached:
            search.silent(size_bytes)
        else:
            return search.told_bytes
    return search.found_bytes
