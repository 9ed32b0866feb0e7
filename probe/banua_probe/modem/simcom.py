"""Reader of SIMCom's own ``+CPSI`` (serving cell).

Columns after SIMCom's AT manuals for SIM7000, SIM7070/7080/7090, SIM7500/7600 and SIM8200, as public code quotes them,
checked against the captures in tests/captures/at/simcom. A reply may go on beyond the columns named here. It names the
cell camped on, not whether the network let the SIM in: but for ``NO SERVICE,Online`` the state is the registration's to
tell.

**Scale.** SIM7600 and SIM82xx send RSRP, RSRQ and RSSI in tenths, SIM7000 and SIM7080 whole, and the reply does not say
which; within one EN-DC reply the lines may differ. RSRP alone decides, for each line: LTE's -156…-44 dBm and the tenths
of it, -1560…-440, have no number in common (NR: -156…-31 and -1560…-310). An RSRP in neither, such as the positive
indices of A76xx, leaves all levels of its line unknown; so does a whole one beside an RSRQ or RSSI that must be tenths.

**SINR.** 2n-20 only where the manual says so: whole values in the modes of SIM7000 and SIM7080, CAT-M1 and NB-IoT. All
others are disputed and kept raw.

**Order.** NR's is RSRP, RSRQ, SINR. EN-DC's older line without a band has RSRQ first by the manual's example, RSRP
first in other software: its levels stay unknown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from banua_probe.modem.errors import ParseError
from banua_probe.modem.gpp import Reader
from banua_probe.modem.line import decimal, hexadecimal, integer, plmn, shown
from banua_probe.modem.ranges import GSM, LTE, NR, UMTS, Ranges, within
from banua_probe.modem.reading import Formula, Rat, Reading
from banua_probe.modem.sinr import sinr

_SOURCE: Final = "+CPSI"
_BAND: Final = re.compile(r"(?:EUTRAN-|NR5G[_-])BAND([0-9]{1,4})", re.IGNORECASE)
_NOT_IN_EN_DC: Final = "NOT IN EN-DC CONNECTED MODE"  # stands where EN-DC's second line would


@dataclass(frozen=True, slots=True)
class _Layout:
    """One mode's columns after ``skip`` leading ones; "" names one that is not read."""

    rat: Rat
    skip: int
    columns: tuple[str, ...]
    ranges: Ranges


_CELL: Final = ("plmn", "tac", "cell_id", "pci")
_LTE: Final = _Layout(
    "lte", 2, (*_CELL, "band", "earfcn", "", "", "rsrq_db", "rsrp_dbm", "rssi_dbm", "sinr_raw"), LTE
)  # fmt: skip
_NR_LEVELS: Final = ("rsrp_dbm", "rsrq_db", "sinr_raw")
_SERVING: Final[Mapping[str, _Layout]] = {
    "LTE": _LTE,
    "LTE CAT-M1": _LTE,
    "LTE NB-IOT": _LTE,
    "NR5G_SA": _Layout("nr_sa", 2, (*_CELL, "band", "earfcn", *_NR_LEVELS), NR),
    "NR5G": _Layout("nr_sa", 2, (*_CELL, "earfcn", *_NR_LEVELS), NR),
    "WCDMA": _Layout("umts", 2, ("plmn", "tac", "cell_id", "", "", "", "", "ecno_db", "rscp_dbm"), UMTS),
    "GSM": _Layout("gsm", 2, ("plmn", "tac", "cell_id", "", "rxlev_dbm"), GSM),
}
_EN_DC: Final = frozenset({"NR5G", "NR5G_NSA"})
_EN_DC_BAND: Final = _Layout("nr_nsa", 1, ("pci", "band", "earfcn", *_NR_LEVELS), NR)
_EN_DC_NO_BAND: Final = _Layout("nr_nsa", 1, ("pci", "earfcn", "", "", "sinr_raw"), NR)
_TWO_N: Final = frozenset({"LTE CAT-M1", "LTE NB-IOT"})

_LEVELS: Final = ("rsrp_dbm", "rsrq_db", "rssi_dbm")
_TENTHS: Final = 10


def cpsi(tokens: Sequence[str]) -> Reading:
    """Read one ``+CPSI`` line; `join` adds EN-DC's second line to the first."""
    mode = tokens[0].upper()
    operation = tokens[1] if len(tokens) > 1 else ""
    if mode == "NO SERVICE":
        # Any other operation mode is a radio that is off: it says nothing of what is there.
        return Reading(source=_SOURCE, state="no_service" if operation == "Online" else "unknown")
    if mode == _NOT_IN_EN_DC:
        return Reading(source=_SOURCE)
    if mode in _EN_DC and operation.isdigit():
        has_band = len(tokens) > 2 and not tokens[2].isdigit()  # noqa: PLR2004 (mode, PCI, then the band if any)
        part = _columns(_EN_DC_BAND if has_band else _EN_DC_NO_BAND, mode, tokens)
        return Reading(source=_SOURCE, rat="nr_nsa", nr=Reading(source=_SOURCE, **part))
    layout = _SERVING.get(mode)
    if layout is None:
        raise ParseError(f"unknown radio technology {shown(tokens[0])}")
    if len(tokens) == layout.skip:
        return Reading(source=_SOURCE, rat=layout.rat)
    return Reading(source=_SOURCE, rat=layout.rat, **_columns(layout, mode, tokens))


def _columns(layout: _Layout, mode: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the known values of `tokens` by field name; raises `ParseError`."""
    fewest = layout.skip + len(layout.columns)
    if len(tokens) < fewest:
        raise ParseError(f"{len(tokens)} values where at least {fewest} belong")
    named = {name: token for name, token in zip(layout.columns, tokens[layout.skip :], strict=False) if name}
    sent = named.pop("sinr_raw", None)
    divisor, values = _scaled(layout.ranges, {name: named.pop(name) for name in _LEVELS if name in named})
    values |= {name: _value(layout.ranges, name, token) for name, token in named.items()}
    if sent is not None:
        formula: Formula = "simcom_2n-20" if mode in _TWO_N and divisor == 1 else "raw"
        values |= sinr(decimal(sent), formula, layout.ranges)
    return values


def _scaled(ranges: Ranges, levels: Mapping[str, str]) -> tuple[int | None, dict[str, Any]]:
    """Return what RSRP proves the divisor to be, None if nothing, and the levels by it."""
    sent = {name: integer(token) for name, token in levels.items()}
    divisor = _divisor(ranges, sent)
    if divisor is None:
        return None, {}
    values = {name: n if n is None or divisor == 1 else n / divisor for name, n in sent.items()}
    return divisor, {name: within(ranges, name, value) for name, value in values.items()}


def _divisor(ranges: Ranges, sent: Mapping[str, int | None]) -> int | None:
    rsrp = sent.get("rsrp_dbm")
    if rsrp is None:
        return None
    if within(ranges, "rsrp_dbm", rsrp / _TENTHS) is not None:
        return _TENTHS
    if within(ranges, "rsrp_dbm", rsrp) is None:
        return None
    contradicted = any(
        n is not None and within(ranges, name, n) is None and within(ranges, name, n / _TENTHS) is not None
        for name, n in sent.items()
    )
    return None if contradicted else 1


def _value(ranges: Ranges, name: str, token: str) -> str | float | None:
    if name == "plmn":
        country, _, network = token.partition("-")
        return plmn(country, network)
    if name == "band":
        match = _BAND.fullmatch(token)
        return within(ranges, name, int(match[1]) if match else None)
    if name == "tac":
        return within(ranges, name, hexadecimal(token))
    if name in {"rscp_dbm", "ecno_db"}:
        # Older modems send magnitudes, others indices: a positive number is out of range, so unknown.
        return within(ranges, name, decimal(token))
    return within(ranges, name, integer(token))


def join(first: Reading, second: Reading) -> Reading | None:
    """Return the one reply that both are lines of, or None: EN-DC sends the LTE cell, then NR's part or a notice."""
    if first.source != _SOURCE or first.rat != "lte" or second.source != _SOURCE:
        return None
    if second == Reading(source=_SOURCE):
        return first
    if second.nr is None:
        return None
    return Reading(source=_SOURCE, rat="nr_nsa", lte=replace(first, rat=None), nr=second.nr)


READERS: Final[Mapping[str, Reader]] = {_SOURCE: cpsi}
