"""Which commands a modem is asked and who reads its replies: one registry line per dialect."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from banua_probe.modem import gpp, huawei, quectel, simcom
from banua_probe.modem.errors import ParseError
from banua_probe.modem.line import MAX_LINE, clean, is_echo, is_final, split
from banua_probe.modem.neighbour import Neighbour, quectel_neighbour
from banua_probe.modem.reading import Reading, Unreadable

DialectName = Literal["3gpp", "quectel", "simcom", "huawei"]
"""What a configuration may say; `DIALECTS` has each."""

Join = Callable[[Reading, Reading], Reading | None]
NeighbourReader = Callable[[str], Neighbour | None]
"""Returns the cell in one clean information line, None if it names none; raises `ParseError`."""

_SETUP: Final = ("ATE0", "AT+CREG=2", "AT+CEREG=2", "AT+COPS=3,2")
_SETUP_5G: Final = (*_SETUP, "AT+C5GREG=2")


def _apart(_first: Reading, _second: Reading) -> None:
    """Join nothing: every information line is a reply of its own."""


def _no_neighbour(_line: str) -> None:
    """Read nothing: the dialect has no command for neighbour cells."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family of modems: ``setup`` is sent once after each opening of the port, ``poll`` at each poll.

    ``neighbours`` asks for the cells beside the serving one, which the first command of ``poll`` tells; "": no command.
    """

    name: DialectName
    poll: tuple[str, ...]
    readers: Mapping[str, gpp.Reader]
    setup: tuple[str, ...] = _SETUP
    join: Join = _apart
    neighbours: str = ""
    read_neighbour: NeighbourReader = _no_neighbour

    def read(self, line: str) -> Reading:
        """Return what one clean information line says; raises `ParseError`."""
        name, tokens = split(line)
        reader = self.readers.get(name)
        if reader is None:
            raise ParseError(f"unknown reply {name}")
        return reader(tokens)


_STANDARD_STATE: Final = ("AT+CEREG?", "AT+CREG?", "AT+COPS?")

_STANDARD_STATE_5G: Final = ("AT+C5GREG?", *_STANDARD_STATE)

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect("3gpp", ("AT+CSQ", "AT+CESQ", *_STANDARD_STATE_5G), gpp.READERS, setup=_SETUP_5G),
        Dialect(
            "quectel",
            ('AT+QENG="servingcell"', "AT+QCSQ", *_STANDARD_STATE),
            {**gpp.READERS, **quectel.READERS},
            join=quectel.join,
            neighbours='AT+QENG="neighbourcell"',
            read_neighbour=quectel_neighbour,
        ),
        Dialect(
            "simcom",
            ("AT+CPSI?", "AT+CESQ", *_STANDARD_STATE_5G),
            {**gpp.READERS, **simcom.READERS},
            setup=_SETUP_5G,
            join=simcom.join,
        ),
        Dialect("huawei", ("AT^HCSQ?", "AT+CESQ", *_STANDARD_STATE), {**gpp.READERS, **huawei.READERS}),
    )
}


def parse(dialect: Dialect, lines: Iterable[str]) -> Iterator[Reading | Unreadable]:
    """Yield the replies among `lines` in their order, each as soon as it is known to be complete.

    Echo, blank lines and final result codes are skipped. `lines` are numbered from 1; a bare CR inside one separates
    too. An unreadable line is yielded as such and ends the reply before it. Never raises.
    """
    pending: Reading | None = None
    for number, text in _numbered(lines):
        told = _told(dialect, number, text)
        if pending is not None and isinstance(told, Reading):
            joined = dialect.join(pending, told)
            if joined is not None:
                pending = joined
                continue
        if pending is not None:
            yield pending
        pending = told if isinstance(told, Reading) else None
        if isinstance(told, Unreadable):
            yield told
    if pending is not None:
        yield pending


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        texts = (line,) if len(line) > MAX_LINE else map(clean, line.split("\r"))
        yield from ((number, text) for text in texts if text)


def _told(dialect: Dialect, number: int, text: str) -> Reading | Unreadable | None:
    if len(text) > MAX_LINE:
        return Unreadable(f"longer than {MAX_LINE} bytes", number)
    if is_echo(text) or is_final(text):
        return None
    try:
        return dialect.read(text)
    except ParseError as error:
        return Unreadable(str(error), number)
