"""What a value may be, per radio technology: outside of it a value is unknown, never clipped."""

from collections.abc import Mapping
from typing import Final, TypeVar

Number = TypeVar("Number", int, float)
Ranges = Mapping[str, tuple[float, float]]

_RSSI: Final = (-140, 0)  # no standard bounds it; the data dictionary's range
_BIT_16: Final = (0, 2**16 - 1)
_BIT_28: Final = (0, 2**28 - 1)

LTE: Final[Ranges] = {
    "rsrp_dbm": (-156, -44),  # TS 36.133 §9.1.4
    "rsrq_db": (-34, 2.5),  # §9.1.7
    "sinr_db": (-23, 40),  # RS-SINR
    "rssi_dbm": _RSSI,
    "cell_id": _BIT_28,  # TS 36.331 CellIdentity
    "tac": _BIT_16,  # TS 23.003 §19.4.2.3
    "pci": (0, 503),  # TS 36.211 §6.11
    "earfcn": (0, 262_143),  # TS 36.101 §5.7.3
    "band": (1, 256),  # TS 36.101 §5.5
}

NR: Final[Ranges] = {
    "rsrp_dbm": (-156, -31),  # TS 38.133 §10.1.6
    "rsrq_db": (-43, 20),  # §10.1.11
    "sinr_db": (-23, 40),  # §10.1.16
    "cell_id": (0, 2**36 - 1),  # TS 38.331 CellIdentity
    "tac": (0, 2**24 - 1),  # TS 23.003 §19.4.2.3
    "pci": (0, 1007),  # TS 38.211 §7.4.2
    "earfcn": (0, 3_279_165),  # the NR-ARFCN, TS 38.104 §5.4.2
    "band": (1, 1024),  # TS 38.331 FreqBandIndicatorNR
}

UMTS: Final[Ranges] = {
    "rscp_dbm": (-121, -24),  # TS 25.133 §9.1.1
    "ecno_db": (-24.5, 0),  # §9.1.2
    "rssi_dbm": _RSSI,
    "cell_id": _BIT_28,  # TS 25.331
    "tac": _BIT_16,  # the location area code
}

GSM: Final[Ranges] = {
    "rxlev_dbm": (-111, -47),  # TS 45.008 §8.1.4
    "rssi_dbm": _RSSI,
    "cell_id": _BIT_16,  # TS 23.003 §4.3.1
    "tac": _BIT_16,  # the location area code
}


def within(ranges: Ranges, name: str, value: Number | None) -> Number | None:
    """Return `value` if `ranges` allow it for `name`, else None: unknown."""
    if value is None:
        return None
    low, high = ranges[name]
    return value if low <= value <= high else None
