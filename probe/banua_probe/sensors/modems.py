"""One owner for each modem: what radio, neighbours and operators ask of it, they ask in turn.

An AT port takes one command at a time, and a scan of all networks holds it for minutes. Whoever finds it taken by a
scan does not wait: `ModemBusy`. The others wait for each other, for no longer than two polls take.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from banua_probe.modem.at_modem import POLL_S, AtModem
from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.neighbour import Neighbour
from banua_probe.modem.reading import Reading
from banua_probe.modem.scan import Receivable

WAIT_S: Final = 2 * POLL_S
"""How long a turn is waited for while no scan goes on, longer than any other turn takes."""


class ModemBusy(Exception):  # noqa: N818 (a condition of the modem, named as one)
    """The modem was not asked: it is scanning, or others had their turn for too long."""


class SharedModem:
    """A modem that several tasks use, each from its own thread."""

    def __init__(self, modem: AtModem) -> None:
        self._modem = modem
        self._turn = threading.Lock()
        self._scanning = threading.Event()
        self.sim_plmn: str | None = None
        """Home network of the SIM that was in it at the last poll, None if that was not answered."""
        self.scans = 0
        """How many scans have begun; one that has begun and goes on is `scanning` already."""

    @property
    def scanning(self) -> bool:
        """Whether a scan goes on: the modem carries no data meanwhile."""
        return self._scanning.is_set()

    def poll(self) -> Reading | None:
        """Return what the modem says of its network, None if it does not answer; raises `ModemBusy`."""
        with self._taken() as modem:
            try:
                if self.sim_plmn is None:
                    self.sim_plmn = modem.identify().sim_plmn
                return modem.poll()
            except ModemUnavailable:
                self.sim_plmn = None  # another SIM may be in it when it comes back
                return None

    def neighbours(self) -> list[Neighbour] | None:
        """Return the cells in sight as `AtModem.neighbours` does; raises its errors and `ModemBusy`."""
        with self._taken() as modem:
            return modem.neighbours()

    def scan(self) -> list[Receivable]:
        """Return the networks in sight as `AtModem.scan` does, in minutes; raises its errors and `ModemBusy`."""
        with self._taken() as modem:
            self._scanning.set()
            self.scans += 1
            try:
                return modem.scan()
            finally:
                self._scanning.clear()

    @contextmanager
    def _taken(self) -> Iterator[AtModem]:
        if not self._turn.acquire(timeout=0 if self._scanning.is_set() else WAIT_S):
            raise ModemBusy("the modem is scanning" if self._scanning.is_set() else "the modem is busy")
        try:
            yield self._modem
        finally:
            self._turn.release()
