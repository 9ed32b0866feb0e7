"""Reader of neighbour cells: Quectel's ``AT+QENG="neighbourcell"``.

``+QENG: "neighbourcell intra","LTE",<earfcn>,<pci>,<rsrq>,<rsrp>,<rssi>,…`` and the same with ``inter``; note RSRQ
before RSRP. A line without a cell identity names a channel that is listened to, not a cell. Lines of other technologies
are passed over: their columns depend on the serving cell's mode, and no capture shows a cell in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from banua_probe.modem.errors import ParseError
from banua_probe.modem.line import integer, shown, split, unquoted
from banua_probe.modem.ranges import LTE, within
from banua_probe.modem.reading import Rat

Relation = Literal["intra", "inter"]

_RELATIONS: Final[Mapping[str, Relation]] = {"neighbourcell intra": "intra", "neighbourcell inter": "inter"}
_OTHER: Final = "neighbourcell"
_COLUMNS: Final = ("earfcn", "pci", "rsrq_db", "rsrp_dbm", "rssi_dbm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One cell in sight; a level that is None is unknown."""

    rat: Rat
    relation: Relation
    """Intra: on the serving cell's channel; inter: on another."""
    earfcn: int
    pci: int
    rsrp_dbm: int | None = None
    rsrq_db: int | None = None
    rssi_dbm: int | None = None


def quectel_neighbour(line: str) -> Neighbour | None:
    """Return the cell in one clean information line, None if it names none; raises `ParseError`."""
    name, tokens = split(line)
    head = unquoted(tokens[0])
    if name != "+QENG" or (head != _OTHER and head not in _RELATIONS):
        raise ParseError(f"no neighbour cell: {shown(line)}")
    if head == _OTHER or len(tokens) == 1 or unquoted(tokens[1]) != "LTE":
        return None
    return _lte(_RELATIONS[head], tokens[2:])


def _lte(relation: Relation, tokens: Sequence[str]) -> Neighbour | None:
    if len(tokens) < len(_COLUMNS):
        raise ParseError(f"{len(tokens)} values of a cell where at least {len(_COLUMNS)} belong")
    sent = dict(zip(_COLUMNS, map(integer, tokens[: len(_COLUMNS)]), strict=True))
    values = {column: within(LTE, column, value) for column, value in sent.items()}
    earfcn, pci = values.pop("earfcn"), values.pop("pci")
    if earfcn is None or pci is None:
        return None
    return Neighbour(rat="lte", relation=relation, earfcn=earfcn, pci=pci, **values)
