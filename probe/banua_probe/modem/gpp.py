"""Readers of the standard's own replies: 3GPP TS 27.007 ``+CSQ +CESQ +CREG +CGREG +CEREG +C5GREG +COPS``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from banua_probe.modem.errors import ParseError
from banua_probe.modem.line import digits, hexadecimal, integer, shown, unquoted
from banua_probe.modem.ranges import GSM, LTE, NR, UMTS, Ranges, within
from banua_probe.modem.reading import Rat, Reading, State

Reader = Callable[[Sequence[str]], Reading]
"""Turns the values of one information line into a reading; raises `ParseError`."""


@dataclass(frozen=True, slots=True)
class Index:
    """A reported index 0…top, each naming an interval: its lower edge is first + step · n, that of 0 only a bound."""

    name: str
    top: int
    first: float
    step: float
    bound: float


# TS 27.007 §8.5 (+CSQ) and §8.69 (+CESQ). Every index outside 0…top, 99 and 255 among them, is unknown.
_CSQ: Final = (Index("rssi_dbm", 31, -113, 2, -113),)
_RXLEV: Final = Index("rxlev_dbm", 63, -111, 1, -110)
_CESQ: Final = (
    Index("rscp_dbm", 96, -121, 1, -120),
    Index("ecno_db", 49, -24.5, 0.5, -24.0),
    Index("rsrq_db", 34, -20.0, 0.5, -19.5),
    Index("rsrp_dbm", 97, -141, 1, -140),
)
_CESQ_NR: Final = (
    Index("nr_rsrq_db", 126, -43.5, 0.5, -43.0),
    Index("nr_rsrp_dbm", 126, -157, 1, -156),
    Index("nr_sinr_db", 127, -23.5, 0.5, -23.0),
)
_BER_TOP: Final = 7

# TS 27.007 §7.2, §10.1.20, §10.1.22, §10.1.47. 0 is a modem that does not search: it says nothing of what is there.
_REGISTRATION: Final[Mapping[int, State]] = {
    0: "unknown",
    1: "registered",
    2: "no_service",  # searching
    3: "denied",  # the SIM or the administration, not the radio
    4: "unknown",
    5: "registered",  # roaming
    6: "registered",  # for SMS only
    7: "registered",  # for SMS only, roaming
    8: "limited",  # emergency only
    9: "registered",  # CSFB not preferred
    10: "registered",  # CSFB not preferred, roaming
    11: "limited",  # restricted local operator service: emergency only
}

# TS 27.007 §7.3, <AcT>.
ACCESS: Final[Mapping[int, Rat]] = {
    0: "gsm",
    1: "gsm",  # compact
    2: "umts",
    3: "gsm",  # EGPRS
    4: "umts",  # HSDPA
    5: "umts",  # HSUPA
    6: "umts",  # HSPA
    7: "lte",
    8: "gsm",  # EC-GSM-IoT
    9: "lte",  # NB-S1
    10: "lte",  # connected to a 5G core
    11: "nr_sa",
    12: "nr_sa",  # NG-RAN
    13: "nr_nsa",
}
_RANGES: Final[Mapping[Rat | None, Ranges]] = {
    "gsm": GSM, "umts": UMTS, "lte": LTE, "nr_sa": NR, "nr_nsa": LTE, None: LTE,
}  # fmt: skip


def _count(tokens: Sequence[str], allowed: Sequence[int]) -> None:
    if len(tokens) not in allowed:
        raise ParseError(f"{len(tokens)} values where {' or '.join(map(str, allowed))} belong")


def lower_edges(indices: Sequence[Index], tokens: Sequence[str]) -> dict[str, Any]:
    """Return the values of `tokens` by field name, and under ``censored`` the names of those that are only a bound."""
    values: dict[str, Any] = {}
    censored = []
    for index, token in zip(indices, tokens, strict=True):
        n = integer(token)
        if n is None or not 0 <= n <= index.top:
            continue
        values[index.name] = index.bound if n == 0 else round(index.first + index.step * n, 1)
        if n in (0, index.top):
            censored.append(index.name)
    values["censored"] = tuple(name for name in Reading.__dataclass_fields__ if name in censored)
    return values


def _signal(source: str, indices: Sequence[Index], tokens: Sequence[str], ber: str) -> Reading:
    values = lower_edges(indices, tokens)
    error_class = integer(ber)
    if error_class is not None and 0 <= error_class <= _BER_TOP:
        values["ber"] = error_class
    return Reading(source=source, **values)


def csq(tokens: Sequence[str]) -> Reading:
    """Read ``+CSQ: <rssi>,<ber>``."""
    _count(tokens, (2,))
    return _signal("+CSQ", _CSQ, tokens[:1], tokens[1])


def cesq(tokens: Sequence[str]) -> Reading:
    """Read ``+CESQ: <rxlev>,<ber>,<rscp>,<ecno>,<rsrq>,<rsrp>[,<ss_rsrq>,<ss_rsrp>,<ss_sinr>]``."""
    short, long = 6, 9
    _count(tokens, (short, long))
    indices = (_RXLEV, *_CESQ, *(_CESQ_NR if len(tokens) == long else ()))
    return _signal("+CESQ", indices, (tokens[0], *tokens[2:]), tokens[1])


def _registration(source: str) -> Reader:
    def read(tokens: Sequence[str]) -> Reading:
        """Read ``<n>,<stat>[,<area>,<cell>[,<AcT>…]]``, or the same without ``<n>`` as sent unsolicited."""
        told = tokens[1:] if _answers_a_read_command(tokens) else tokens
        stat = integer(told[0])
        if stat is None:
            raise ParseError("a registration without a state")
        state = _REGISTRATION.get(stat, "unknown")
        if state != "registered":
            return Reading(source=source, state=state)  # the cell beside it is an old one
        return _registered(source, [*told[1:], "", "", ""])

    return read


def _registered(source: str, cell: Sequence[str]) -> Reading:
    access = integer(cell[2])
    rat = None if access is None else ACCESS.get(access)
    ranges = NR if source == "+C5GREG" else _RANGES[rat]
    return Reading(
        source=source,
        state="registered",
        rat=rat,
        cell_id=within(ranges, "cell_id", hexadecimal(cell[1])),
        tac=within(ranges, "tac", hexadecimal(cell[0])),
    )


def _answers_a_read_command(tokens: Sequence[str]) -> bool:
    """Tell ``<n>,<stat>…`` from an unsolicited ``<stat>,<area>…``: an area is quoted or longer than a state."""
    longest_state = 2
    return len(tokens) > 1 and tokens[1].isdigit() and len(tokens[1]) <= longest_state


def cops(tokens: Sequence[str]) -> Reading:
    """Read ``+COPS: <mode>[,<format>,<oper>[,<AcT>]]``; only a numeric operator (format 2) is a PLMN."""
    mode, style, operator, access = [*tokens[:4], *[""] * (4 - len(tokens[:4]))]
    if integer(mode) is None:
        raise ParseError("an operator without a mode")
    numeric = 2
    number = integer(access)
    return Reading(
        source="+COPS",
        rat=None if number is None else ACCESS.get(number),
        plmn=_numeric_operator(operator) if integer(style) == numeric else None,
    )


def _numeric_operator(token: str) -> str | None:
    text = digits(token)
    if text is None:
        return None
    plmn_lengths = (5, 6)
    if len(text) not in plmn_lengths:
        raise ParseError(f"not a numeric operator: {shown(unquoted(token))}")
    return text


READERS: Final[Mapping[str, Reader]] = {
    "+CSQ": csq,
    "+CESQ": cesq,
    "+CREG": _registration("+CREG"),
    "+CGREG": _registration("+CGREG"),
    "+CEREG": _registration("+CEREG"),
    "+C5GREG": _registration("+C5GREG"),
    "+COPS": cops,
}
