"""`operators`: every network that a modem's scan receives, whoever's SIM it is.

That a scan finds nothing, or not a certain network, is evidence: it is measured, with count 0 if need be. A scan stops
the modem's data for minutes, so it has a budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from banua_probe.config import Modem
from banua_probe.modem.errors import ModemRefused, ModemUnavailable, ParseError
from banua_probe.modem.scan import Receivable
from banua_probe.sensors.modems import ModemBusy, SharedModem
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import MAX_TEXT, Value
from banua_wire.rows import Row

Outcome = Literal["measured", "failed", "not_measured"]

DAY_MS: Final = 86_400_000
MAX_WAITING: Final = 2
"""With more batches waiting than these a backlog drains, and the link is left to it."""


@dataclass(slots=True)
class ScanBudget:
    """At most `a_day` scans in any 24 hours, and none while a backlog drains; times in ms of CLOCK_BOOTTIME."""

    a_day: int
    _spent_ms: list[int] = field(default_factory=list)

    def refusal(self, now_ms: int, waiting: int) -> str:
        """Return why no scan may begin with `waiting` batches unsent, "" if one may."""
        self._spent_ms = [at for at in self._spent_ms if now_ms - at < DAY_MS]
        if len(self._spent_ms) >= self.a_day:
            return f"budget: {self.a_day} scans in 24 h used"
        return f"backlog draining: {waiting} batches waiting" if waiting > MAX_WAITING else ""

    def spend(self, now_ms: int) -> None:
        """Take note of a scan that began at `now_ms`."""
        self._spent_ms.append(now_ms)


def operator_rows(
    modem: str,
    boottime_ms: int,
    found: Sequence[Receivable],
    *,
    outcome: Outcome = "measured",
    reason: str = "",
    took_ms: int | None = None,
    simulated: bool = False,
) -> list[Row]:
    """Return a row for each network `found`, and the summary; `took_ms` is None where no scan took place."""
    mark: dict[str, Value] = {"simulated": 1} if simulated else {}
    summary: dict[str, Value] = {"modem": modem, "outcome": outcome} | mark
    if outcome == "measured":
        summary["count"] = len(found)
    if reason:
        summary["reason"] = reason
    if took_ms is not None:
        summary["took_ms"] = took_ms
    networks = [_network(network) | {"modem": modem, "outcome": "measured"} | mark for network in found]
    return [Row("operators", boottime_ms, within_dictionary("operators", values)) for values in (*networks, summary)]


def _network(network: Receivable) -> dict[str, Value]:
    values: dict[str, Value] = {"plmn": network.plmn, "status": network.status}
    if network.rat is not None:
        values["rat"] = network.rat
    name = "".join(filter(str.isprintable, network.name or ""))[:MAX_TEXT]
    return values | {"operator": name} if name else values


class OperatorScans:
    """Scans with one modem within its budget."""

    def __init__(
        self, settings: Modem, modem: SharedModem, boottime_ms: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        self._settings, self._modem = settings, modem
        self._boottime_ms, self._waiting = boottime_ms, waiting
        self._budget = ScanBudget(settings.operators_a_day)

    def run(self) -> list[Row]:
        """Scan, in minutes, and return the rows; only the summary if the budget refuses."""
        began_ms = self._boottime_ms()
        refusal = self._budget.refusal(began_ms, self._waiting())
        if refusal:
            return self._rows((), "not_measured", refusal)
        try:
            found = self._modem.scan()
        except ModemBusy as error:
            return self._rows((), "not_measured", str(error))
        except (ModemUnavailable, ModemRefused, ParseError) as error:
            self._budget.spend(began_ms)
            return self._rows((), "failed", f"{_FAILURES[type(error)]}: {error}", began_ms)
        self._budget.spend(began_ms)
        return self._rows(found, "measured", "", began_ms)

    def _rows(
        self, found: Sequence[Receivable], outcome: Outcome, reason: str, began_ms: int | None = None
    ) -> list[Row]:
        now_ms = self._boottime_ms()
        return operator_rows(
            self._settings.name,
            now_ms,
            found,
            outcome=outcome,
            reason=reason,
            took_ms=None if began_ms is None else now_ms - began_ms,
            simulated=self._settings.simulated,
        )


_FAILURES: Final[dict[type[Exception], str]] = {
    ModemUnavailable: "no answer",
    ModemRefused: "refused by the modem",
    ParseError: "unreadable",
}
