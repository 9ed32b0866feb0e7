"""`radio`: polls of one modem, combined into one row an interval.

Levels are aggregated by the median in dBm, never by a mean of dBm; identities are those of the newest poll that tells
them; a poll that was not answered counts as failed, one that was not attempted as skipped, and neither says more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from banua_probe.config import Modem
from banua_probe.modem.reading import Reading, State
from banua_probe.sensors.modems import ModemBusy, SharedModem
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

STATES: Final[tuple[State, ...]] = ("registered", "limited", "no_service", "denied", "unknown")
"""Poll states, the better one first: it wins a tie."""
_LEVELS: Final = ("rsrp_dbm", "rsrq_db", "rssi_dbm", "rscp_dbm", "rxlev_dbm", "nr_rsrp_dbm", "nr_rsrq_db")
_NEWEST: Final = ("rat", "plmn", "cell_id", "tac", "pci", "earfcn", "band")
_SINR: Final = (("sinr_raw", "sinr_formula"), ("nr_sinr_raw", "nr_sinr_formula"))


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll: when it was answered or given up (CLOCK_BOOTTIME, ms), and its reading, None if not answered."""

    boottime_ms: int
    reading: Reading | None


def radio_row(
    modem: str, polls: Sequence[Poll], boottime_ms: int, *, sim_plmn: str | None, simulated: bool, skipped: int = 0
) -> Row:
    """Return the row of `polls` at `boottime_ms`, the end of its interval; `skipped` more were not attempted."""
    answered = [poll for poll in polls if poll.reading is not None]
    readings = [poll.reading for poll in answered if poll.reading is not None]
    states = Counter(reading.state for reading in readings)
    values: dict[str, Value] = {"modem": modem, "polls": len(polls), "polls_failed": len(polls) - len(answered)}
    values |= {f"polls_{state}": states[state] for state in STATES if readings}
    if states:
        values["state"] = max(STATES, key=lambda state: (states[state], -STATES.index(state)))
    if sim_plmn:
        values["sim_plmn"] = sim_plmn
    values |= _signal(readings)
    measured = [poll.boottime_ms for poll in answered if poll.reading and _has_level(poll.reading)]
    if measured:
        values["value_age_ms"] = max(boottime_ms - measured[-1], 0)
    if skipped:
        values["polls_skipped"] = skipped
    if simulated:
        values["simulated"] = 1
    return Row("radio", boottime_ms, within_dictionary("radio", values))


def _has_level(reading: Reading) -> bool:
    return any(getattr(reading, name) is not None for name in _LEVELS)


def _signal(readings: Sequence[Reading]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name in _LEVELS:
        told = [getattr(reading, name) for reading in readings if getattr(reading, name) is not None]
        if told:
            values[name] = float(median(told))
    newest = list(reversed(readings))
    for names in (*((name,) for name in _NEWEST), *_SINR):
        reading = next((r for r in newest if getattr(r, names[0]) is not None), None)
        if reading is not None:
            values |= {name: getattr(reading, name) for name in names if getattr(reading, name) is not None}
    censored = {name for reading in readings for name in reading.censored}
    if censored:
        values["censored"] = ",".join(sorted(censored))
    return values


class RadioPolls:
    """Polls one modem and closes a row when its interval is over."""

    def __init__(self, settings: Modem, modem: SharedModem, boottime_ms: Callable[[], int]) -> None:
        self._settings, self._modem, self._boottime_ms = settings, modem, boottime_ms
        self._polls: list[Poll] = []
        self._skipped = 0

    def run(self) -> list[Row]:
        """Poll once, or skip it while the modem scans; return the interval's row when that was its last poll."""
        try:
            reading = self._modem.poll()
        except ModemBusy:
            self._skipped += 1
        else:
            self._polls.append(Poll(self._boottime_ms(), reading))
        settings = self._settings
        if len(self._polls) + self._skipped < settings.row_s // settings.poll_s:
            return []
        polls, skipped = self._polls, self._skipped
        self._polls, self._skipped = [], 0
        return [
            radio_row(
                settings.name,
                polls,
                self._boottime_ms(),
                sim_plmn=self._modem.sim_plmn,
                simulated=settings.simulated,
                skipped=skipped,
            )
        ]
