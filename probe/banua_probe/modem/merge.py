"""Combine the replies of one poll into one reading: pure.

The state is the vendor's own command's, else the registration's, else unknown; where the vendor says only "camped, not
registered" and the registration says "denied", it is denied, which is the same fact with its reason. Each value comes
from the most precise reply that has it: a vendor's command in the order polled, +CESQ, +CSQ, then the registrations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from banua_probe.modem.reading import Reading, State

# A source that is not here is a vendor's command and comes before all of these.
_STANDARD: Final = ("+CESQ", "+CSQ", "+C5GREG", "+CEREG", "+CGREG", "+CREG", "+COPS")
# Of several domains' registrations the best counts: one network is enough.
_STATES: Final[tuple[State, ...]] = ("registered", "denied", "limited", "no_service")

# Fields that only mean something together come from one reply.
_TOGETHER: Final = (
    ("rat",),
    ("plmn",),
    ("cell_id",),
    ("pci",),
    ("earfcn",),
    ("band",),
    ("tac",),
    ("rsrp_dbm",),
    ("rsrq_db",),
    ("rssi_dbm",),
    ("sinr_raw", "sinr_db", "sinr_formula"),
    ("rscp_dbm",),
    ("ecno_db",),
    ("rxlev_dbm",),
    ("ber",),
    ("nr_rsrp_dbm",),
    ("nr_rsrq_db",),
    ("nr_sinr_raw", "nr_sinr_db", "nr_sinr_formula"),
)
_CELL: Final = ("rat", "plmn", "cell_id", "pci", "earfcn", "band", "tac")
_LEVELS: Final = ("rsrp_dbm", "rsrq_db", "sinr_raw", "sinr_db", "sinr_formula")


def merge(readings: Iterable[Reading]) -> Reading:
    """Return the poll's one reading, flat, with ``source`` "poll"; from no readings at all, one that knows nothing."""
    ranked = sorted(map(flat, readings), key=_rank)
    state = _state(ranked)
    values: dict[str, Any] = {}
    censored: list[str] = []
    for names in _TOGETHER:
        best = next((r for r in ranked if any(getattr(r, name) is not None for name in names)), None)
        if best is not None:
            values |= {name: getattr(best, name) for name in names}
            censored += [name for name in names if name in best.censored]
    if state == "no_service":
        values |= dict.fromkeys(_CELL)  # no cell serves: what a slower command still names is the last one
    return Reading(source="poll", state=state, censored=tuple(censored), **values)


def flat(reading: Reading) -> Reading:
    """Return `reading` as the columns of a row: LTE's values plain, NR's in the ``nr_`` fields."""
    if reading.rat == "nr_sa" and any(getattr(reading, name) is not None for name in _LEVELS):
        return _beside(reading, reading)
    anchor = reading if reading.lte is None else replace(reading, **_known(reading.lte), lte=None)
    return anchor if reading.nr is None else _beside(replace(anchor, nr=None), reading.nr)


def _beside(reading: Reading, nr: Reading) -> Reading:
    moved: dict[str, Any] = dict.fromkeys(_LEVELS) if reading is nr else {}
    moved |= {f"nr_{name}": getattr(nr, name) for name in _LEVELS}
    if reading.plmn is None:
        moved["plmn"] = nr.plmn
    return replace(reading, **moved)


def _known(part: Reading) -> dict[str, Any]:
    return {name: getattr(part, name) for name in (*_CELL[1:], *_LEVELS, "rssi_dbm")}


def _rank(reading: Reading) -> int:
    return _STANDARD.index(reading.source) + 1 if reading.source in _STANDARD else 0


def _state(ranked: Sequence[Reading]) -> State:
    vendor = next((r.state for r in ranked if _rank(r) == 0 and r.state != "unknown"), None)
    told = {r.state for r in ranked if _rank(r) > 0}
    registration = next((state for state in _STATES if state in told), None)
    if vendor == "limited" and registration == "denied":
        return "denied"
    return vendor or registration or "unknown"
