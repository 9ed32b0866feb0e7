"""Reader of Huawei's own ``^HCSQ``: signal by system mode, each value an index of TS 27.007's kind.

Tables after Huawei's AT Command Interface Specification for ME909, as public code quotes it; 255 is unknown. Of service
the reply says no more than ``"NOSERVICE"``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from banua_probe.modem.errors import ParseError
from banua_probe.modem.gpp import Index, Reader, lower_edges
from banua_probe.modem.line import integer, shown, unquoted
from banua_probe.modem.ranges import GSM, LTE, UMTS, Ranges, within
from banua_probe.modem.reading import Rat, Reading
from banua_probe.modem.sinr import sinr

_RSSI: Final = Index("rssi_dbm", 96, -121, 1, -120)


@dataclass(frozen=True, slots=True)
class _Mode:
    rat: Rat
    ranges: Ranges
    indices: tuple[Index, ...]


_MODES: Final[Mapping[str, _Mode]] = {
    "LTE": _Mode(
        "lte",
        LTE,
        (
            _RSSI,
            Index("rsrp_dbm", 97, -141, 1, -140),
            Index("sinr_db", 251, -20.2, 0.2, -20.0),
            Index("rsrq_db", 34, -20.0, 0.5, -19.5),
        ),
    ),
    "WCDMA": _Mode(
        "umts", UMTS, (_RSSI, Index("rscp_dbm", 96, -121, 1, -120), Index("ecno_db", 65, -32.5, 0.5, -32.0))
    ),
    "GSM": _Mode("gsm", GSM, (_RSSI,)),
}


def hcsq(tokens: Sequence[str]) -> Reading:
    """Read ``^HCSQ:"LTE",<rssi>,<rsrp>,<sinr>,<rsrq>``, ``"WCDMA",<rssi>,<rscp>,<ecio>`` or ``"GSM",<rssi>``."""
    name = unquoted(tokens[0])
    if name == "NOSERVICE":
        return Reading(source="^HCSQ", state="no_service")
    mode = _MODES.get(name)
    if mode is None:
        raise ParseError(f"unknown radio technology {shown(name)}")
    wanted = len(mode.indices)
    if len(tokens) <= wanted:
        raise ParseError(f"{len(tokens) - 1} values after the technology where at least {wanted} belong")
    values = lower_edges(mode.indices, tokens[1 : wanted + 1])
    bounds = values.pop("censored")
    known: dict[str, Any] = {n: v for n, v in values.items() if within(mode.ranges, n, v) is not None}
    if "sinr_db" in known:  # a censored one stays its bound
        known = sinr(integer(tokens[3]), "huawei_-20.2+n/5", mode.ranges) | known
    return Reading(source="^HCSQ", rat=mode.rat, censored=tuple(n for n in bounds if n in known), **known)


READERS: Final[Mapping[str, Reader]] = {"^HCSQ": hcsq}
