"""`neighbours`: the cells that a modem has in sight beside the one that serves it."""

from collections.abc import Callable, Sequence

from banua_probe.config import Modem
from banua_probe.modem.errors import ModemRefused, ModemUnavailable
from banua_probe.modem.neighbour import Neighbour
from banua_probe.sensors.modems import ModemBusy, SharedModem
from banua_probe.sensors.operators import Outcome
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row


def neighbour_rows(
    modem: str,
    boottime_ms: int,
    cells: Sequence[Neighbour],
    *,
    outcome: Outcome = "measured",
    reason: str = "",
    simulated: bool = False,
) -> list[Row]:
    """Return a row for each of `cells`, the first of each channel and identity, and the summary."""
    mark: dict[str, Value] = {"simulated": 1} if simulated else {}
    once: dict[tuple[int, int], Neighbour] = {}
    for cell in cells:
        once.setdefault((cell.earfcn, cell.pci), cell)
    summary: dict[str, Value] = {"modem": modem, "outcome": outcome} | mark
    if outcome == "measured":
        summary["count"] = len(once)
    if reason:
        summary["reason"] = reason
    rows = [_cell(cell) | {"modem": modem, "outcome": "measured"} | mark for cell in once.values()]
    return [Row("neighbours", boottime_ms, within_dictionary("neighbours", values)) for values in (*rows, summary)]


def _cell(cell: Neighbour) -> dict[str, Value]:
    values: dict[str, Value] = {"rat": cell.rat, "relation": cell.relation, "earfcn": cell.earfcn, "pci": cell.pci}
    levels = {"rsrp_dbm": cell.rsrp_dbm, "rsrq_db": cell.rsrq_db, "rssi_dbm": cell.rssi_dbm}
    return values | {name: value for name, value in levels.items() if value is not None}


def look_around(settings: Modem, modem: SharedModem, boottime_ms: Callable[[], int]) -> list[Row]:
    """Ask `modem` once for its neighbour cells and return the rows."""
    cells: Sequence[Neighbour] = ()
    outcome: Outcome = "failed"
    reason = ""
    try:
        told = modem.neighbours()
    except ModemBusy as error:
        outcome, reason = "not_measured", str(error)
    except ModemUnavailable as error:
        reason = f"no answer: {error}"
    except ModemRefused as error:
        reason = f"refused by the modem: {error}"
    else:
        if told is None:
            outcome, reason = "not_measured", f"dialect {settings.dialect} has no command for it"
        else:
            outcome, cells = "measured", told
    return neighbour_rows(
        settings.name, boottime_ms(), cells, outcome=outcome, reason=reason, simulated=settings.simulated
    )
