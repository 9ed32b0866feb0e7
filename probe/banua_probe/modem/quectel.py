"""Readers of Quectel's own replies: ``+QENG`` (serving cell), ``+QCSQ``, ``+QSINR``.

Field order after Quectel's AT manuals for EC2x/EG9x/BG9x (18 fields in LTE) and RG50x/RM5xx (20, EN-DC in three lines),
checked against the captures in tests/captures/at/quectel. A reply may go on beyond the columns named here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from banua_probe.modem.errors import ParseError
from banua_probe.modem.gpp import Reader
from banua_probe.modem.line import hexadecimal, integer, plmn, shown, unquoted
from banua_probe.modem.ranges import GSM, LTE, NR, UMTS, Ranges, within
from banua_probe.modem.reading import Formula, Rat, Reading, State
from banua_probe.modem.sinr import sinr

_STATES: Final[Mapping[str, State]] = {
    "SEARCH": "no_service",  # no suitable cell yet
    "LIMSRV": "limited",  # camped, not registered
    "NOCONN": "registered",  # idle
    "CONNECT": "registered",  # in use
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """One radio technology's columns; "" names one that is not read. ``fewest`` guards against a line cut short."""

    rat: Rat | None
    columns: tuple[str, ...]
    fewest: int
    ranges: Ranges
    formula: Formula | None = None


_LTE_COLUMNS: Final = (
    "", "mcc", "mnc", "cell_id", "pci", "earfcn", "band", "", "", "tac", "rsrp_dbm", "rsrq_db", "rssi_dbm", "sinr_raw",
)  # fmt: skip
_SERVING_LTE: Final = _Layout("lte", _LTE_COLUMNS, len(_LTE_COLUMNS) + 1, LTE, "quectel_2x-20")
_SERVING_NR: Final = _Layout(
    "nr_sa",
    ("", "mcc", "mnc", "cell_id", "pci", "tac", "earfcn", "band", "", "rsrp_dbm", "rsrq_db", "sinr_raw"),
    13,
    NR,
    "db",
)
_SERVING_UMTS: Final = _Layout(
    "umts", ("mcc", "mnc", "tac", "cell_id", "", "", "", "rscp_dbm", "ecno_db"), 10, UMTS
)  # fmt: skip
_SERVING_GSM: Final = _Layout("gsm", ("mcc", "mnc", "tac", "cell_id", "", "", "", "rxlev_dbm"), 9, GSM)

# After `"servingcell",<state>`.
_SERVING: Final[Mapping[str, _Layout]] = {
    "LTE": _SERVING_LTE,
    "eMTC": _SERVING_LTE,
    "CAT-M": _SERVING_LTE,
    "CAT-M1": _SERVING_LTE,
    "NBIoT": _SERVING_LTE,
    "CAT-NB": _SERVING_LTE,
    "CAT-NB1": _SERVING_LTE,
    "NR5G-SA": _SERVING_NR,
    "WCDMA": _SERVING_UMTS,
    "GSM": _SERVING_GSM,
}
# EN-DC's second and third line. Note SINR before RSRQ in NR; the oldest firmware ends there.
_PARTS: Final[Mapping[str, _Layout]] = {
    "LTE": _SERVING_LTE,
    "NR5G-NSA": _Layout(
        "nr_nsa", ("mcc", "mnc", "pci", "rsrp_dbm", "sinr_raw", "rsrq_db", "earfcn", "band"), 6, NR, "db"
    ),
}

_SIGNAL_LTE: Final = _Layout("lte", ("rssi_dbm", "rsrp_dbm", "sinr_raw", "rsrq_db"), 4, LTE, "quectel_x/5-20")
# +QCSQ, by system mode.
_SIGNAL: Final[Mapping[str, _Layout]] = {
    "LTE": _SIGNAL_LTE,
    "eMTC": _SIGNAL_LTE,
    "CAT-M1": _SIGNAL_LTE,
    "NBIoT": _SIGNAL_LTE,
    "CAT-NB1": _SIGNAL_LTE,
    "WCDMA": _Layout("umts", ("rssi_dbm", "rscp_dbm", "ecno_db"), 3, UMTS),
    "GSM": _Layout("gsm", ("rssi_dbm",), 1, GSM),
    "NR5G": _Layout(None, ("rsrp_dbm", "sinr_raw", "rsrq_db"), 3, NR, "db"),
}
_SINR_MODES: Final[Mapping[str, Ranges]] = {"LTE": LTE, "NR5G": NR}

_HEXADECIMAL: Final = frozenset({"cell_id", "tac"})


def _columns(layout: _Layout, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the known values of `tokens` by field name; raises `ParseError`."""
    if len(tokens) < layout.fewest:
        raise ParseError(f"{len(tokens)} values after the technology where at least {layout.fewest} belong")
    named = {name: token for name, token in zip(layout.columns, tokens, strict=False) if name}
    values: dict[str, Any] = {}
    if "mcc" in named:
        values["plmn"] = plmn(named.pop("mcc"), named.pop("mnc"))
    for name, token in named.items():
        if name == "sinr_raw" and layout.formula is not None:
            values |= sinr(integer(token), layout.formula, layout.ranges)
        else:
            number = hexadecimal(token) if name in _HEXADECIMAL else integer(token)
            values[name] = within(layout.ranges, name, number)
    return values


def _layout(layouts: Mapping[str, _Layout], token: str) -> _Layout:
    layout = layouts.get(unquoted(token))
    if layout is None:
        raise ParseError(f"unknown radio technology {shown(unquoted(token))}")
    return layout


def qeng(tokens: Sequence[str]) -> Reading:
    """Read one ``+QENG`` line of ``AT+QENG="servingcell"``; `join` adds EN-DC's further lines to the first."""
    if unquoted(tokens[0]) == "servingcell":
        return _serving_cell(tokens[1:])
    layout = _layout(_PARTS, tokens[0])
    part = Reading(source="+QENG", **_columns(layout, tokens[1:]))
    if layout.rat == "lte":
        return Reading(source="+QENG", rat="lte", lte=part)
    return Reading(source="+QENG", rat="nr_nsa", nr=part)


def _serving_cell(tokens: Sequence[str]) -> Reading:
    if not tokens:
        raise ParseError("a serving cell without a state")
    state = _STATES.get(unquoted(tokens[0]))
    if state is None:
        raise ParseError(f"unknown state {shown(unquoted(tokens[0]))}")
    if len(tokens) == 1:
        return Reading(source="+QENG", state=state)
    layout = _layout(_SERVING, tokens[1])
    return Reading(source="+QENG", state=state, rat=layout.rat, **_columns(layout, tokens[2:]))


def qcsq(tokens: Sequence[str]) -> Reading:
    """Read ``+QCSQ: <sysmode>,…``; the NR form has no RSSI and does not tell standalone from EN-DC."""
    mode = unquoted(tokens[0])
    if mode == "NOSERVICE":
        return Reading(source="+QCSQ", state="no_service")
    layout = _layout(_SIGNAL, tokens[0])
    values = _columns(layout, tokens[1:])
    if layout.ranges is NR:
        return Reading(source="+QCSQ", **_beside(values))
    # The dictionary orders rsrp, rsrq, rssi, sinr; this reply's own order is kept in what is shown.
    return Reading(source="+QCSQ", rat=layout.rat, as_sent=("rat", *values), **values)


def qsinr(tokens: Sequence[str]) -> Reading:
    """Read ``+QSINR: <main>,<diversity>,<rx2>,<rx3>,<sysmode>``: the main receive path, in dB."""
    length = 5
    if len(tokens) != length:
        raise ParseError(f"{len(tokens)} values where {length} belong")
    mode = unquoted(tokens[4])
    ranges = _SINR_MODES.get(mode)
    if ranges is None:
        raise ParseError(f"unknown radio technology {shown(mode)}")
    values = sinr(integer(tokens[0]), "db", ranges)
    return Reading(source="+QSINR", **(_beside(values) if ranges is NR else values))


def _beside(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"nr_{name}": value for name, value in values.items()}


def join(first: Reading, second: Reading) -> Reading | None:
    """Return the one reply that both are lines of, or None: EN-DC sends a state, then an LTE and an NR part."""
    is_part = second.lte is not None or second.nr is not None
    takes_parts = first.source == second.source and (first.rat is None or first.lte is not None or first.nr is not None)
    if not is_part or not takes_parts or first.state == "no_service":
        return None
    nr = first.nr or second.nr
    return replace(first, rat="lte" if nr is None else "nr_nsa", lte=first.lte or second.lte, nr=nr)


READERS: Final[Mapping[str, Reader]] = {"+QENG": qeng, "+QCSQ": qcsq, "+QSINR": qsinr}
