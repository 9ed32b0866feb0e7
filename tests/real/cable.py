"""A cable that is pulled while a test of the path is under way."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.netns import Namespace


@contextmanager
def pulled(at: Namespace, device: str, after_s: float) -> Iterator[None]:
    """Set `device` down so long after `at` has received its first IPv4 packet: its other end loses the carrier."""

    def pull() -> None:
        until_s = time.monotonic() + 30
        while not _received(at) and time.monotonic() < until_s:
            time.sleep(0.05)
        time.sleep(after_s)
        at.ip("link", "set", device, "down")

    thread = threading.Thread(target=pull)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _received(at: Namespace) -> int:
    names, numbers = (line.split() for line in at.run(["head", "-2", "/proc/net/snmp"]).stdout.splitlines())
    return int(dict(zip(names, numbers, strict=True))["InReceives"])
