"""A modem behind an AT port: ask, read, combine."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from banua_probe.modem.dialects import Dialect, parse
from banua_probe.modem.errors import ModemRefused, ModemUnavailable, ParseError
from banua_probe.modem.line import is_echo, is_final
from banua_probe.modem.merge import merge
from banua_probe.modem.neighbour import Neighbour
from banua_probe.modem.reading import Reading
from banua_probe.modem.scan import Receivable, receivable

COMMAND_S: Final = 2.0
"""How long one command may take; the standard's and the vendor's own limit for these is 300 ms."""
POLL_S: Final = 6.0
"""How long a whole poll may take, well within the ten seconds between two."""
SCAN_S: Final = 180.0
"""How long a scan of all networks may take: the vendors' own limit."""

_EQUIPMENT: Final = re.compile(r'(?:\+CGSN: ?)?"?([0-9]{14,16})"?')
_SCAN: Final = "AT+COPS=?"
_SUBSCRIBER: Final = re.compile(r'(?:\+CIMI: ?)?"?([0-9]{5})[0-9]{8,10}"?')


class Port(Protocol):
    """What a modem needs of its port; `AtPort` is one."""

    session: int

    def open(self) -> int:
        """Open if need be; raises `ModemUnavailable`."""

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        """Return the lines of the reply to `command`; raises `ModemUnavailable`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the modem is and whose SIM it holds; None where it would not say. The subscriber's number is not kept."""

    imei: str | None
    sim_plmn: str | None
    """Country and network code of the SIM's home network; a network code of two digits, as all Indonesian ones are."""


class AtModem:
    """One modem, polled over its AT port in its dialect."""

    def __init__(
        self,
        port: Port,
        dialect: Dialect,
        *,
        command_s: float = COMMAND_S,
        poll_s: float = POLL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._dialect = dialect
        self._command_s = command_s
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._set_up_in = 0
        self.unreadable = 0
        """Lines of replies that nobody could read, since the beginning."""

    def poll(self) -> Reading:
        """Ask every command of the dialect and return what the answered ones say together.

        Takes at most `poll_s`. Raises `ModemUnavailable` if not one was answered.
        """
        lines = [line for reply in self._ask(self._dialect.poll).values() for line in reply]
        told = list(parse(self._dialect, lines))
        readings = [reading for reading in told if isinstance(reading, Reading)]
        self.unreadable += len(told) - len(readings)
        return merge(readings)

    def identify(self) -> Identity:
        """Ask for the modem's and the SIM's identity; raises `ModemUnavailable` if neither was answered."""
        replies = self._ask(("AT+CGSN", "AT+CIMI"))
        return Identity(
            imei=_first(_EQUIPMENT, replies.get("AT+CGSN", ())),
            sim_plmn=_first(_SUBSCRIBER, replies.get("AT+CIMI", ())),
        )

    def neighbours(self) -> list[Neighbour] | None:
        """Return the cells in sight beside the serving one, None if the dialect has no command for them.

        Takes at most `poll_s`. Raises `ModemUnavailable` if there was no answer, `ModemRefused` if it was an error.
        """
        command = self._dialect.neighbours
        if not command:
            return None
        replies = self._ask((*self._dialect.poll[:1], command))
        if command not in replies:
            raise ModemUnavailable(f"no reply to {command}")
        lines = _granted(replies.pop(command))
        told = (reading for reply in replies.values() for reading in parse(self._dialect, reply))
        serving = merge(reading for reading in told if isinstance(reading, Reading))
        cells = [cell for line in lines if (cell := self._neighbour(line)) is not None]
        return [cell for cell in cells if (cell.earfcn, cell.pci) != (serving.earfcn, serving.pci)]

    def scan(self, timeout_s: float = SCAN_S) -> list[Receivable]:
        """Return every network that can be received, whoever's SIM it is; the modem carries no data meanwhile.

        Takes at most `timeout_s`. Raises `ModemUnavailable` if there was no answer, `ModemRefused` if it was an error,
        `ParseError` if it could not be read whole.
        """
        deadline = self._monotonic() + timeout_s
        self._set_up(deadline)
        return receivable(_granted(self._exchange(_SCAN, deadline, timeout_s)))

    def _neighbour(self, line: str) -> Neighbour | None:
        if is_echo(line) or is_final(line):
            return None
        try:
            return self._dialect.read_neighbour(line)
        except ParseError:
            self.unreadable += 1
            return None

    def _ask(self, commands: Iterable[str]) -> dict[str, list[str]]:
        """Return the replies to those of `commands` that were answered, an error being an answer too."""
        deadline = self._monotonic() + self._poll_s
        replies: dict[str, list[str]] = {}
        failure: ModemUnavailable | None = None
        for command in commands:
            try:
                self._set_up(deadline)
                replies[command] = self._exchange(command, deadline)
            except ModemUnavailable as error:
                failure = failure or error  # what follows the first is its consequence
        if failure is not None and not replies:
            raise failure
        return replies

    def _set_up(self, deadline: float) -> None:
        """Send the dialect's setup if the port was opened since; what the modem refuses of it is left so."""
        self._port.open()
        if self._set_up_in == self._port.session:
            return
        for command in self._dialect.setup:
            self._exchange(command, deadline)
        self._set_up_in = self._port.session

    def _exchange(self, command: str, deadline: float, longest_s: float | None = None) -> list[str]:
        left = deadline - self._monotonic()
        if left <= 0:
            raise ModemUnavailable(f"no time left to ask {command}")
        return self._port.exchange(command, min(longest_s or self._command_s, left))


def _granted(lines: list[str]) -> list[str]:
    """Return `lines` if their final result code is OK; else raise `ModemRefused`."""
    final = next((line for line in lines if is_final(line)), "no result code")
    if final != "OK":
        raise ModemRefused(final if final.isprintable() else ascii(final))
    return lines


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str | None:
    return next((match[1] for line in lines if (match := pattern.fullmatch(line))), None)
