"""`hops`: which routers a path passes, and when a path is worth tracing; the trace itself is in `traceroute.py`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from banua_probe.config import PathTarget
from banua_probe.sensors.bound import NotSentError
from banua_probe.sensors.course import Hop
from banua_probe.sensors.names import Names
from banua_probe.sensors.traceroute import Trace, trace
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

LEAST_APART_MS: Final = 600_000
"""A target is traced at most so often."""
WHILE_FAILED_MS: Final = 3_600_000
"""And again so often while it stays failed."""

Cause = Literal["failed", "changed"]
Trigger = Literal["failed", "changed", "demand"]


def hop_rows(
    target: str, modem: str, trigger: Trigger, boottime_ms: int, found: Trace | None, interface: str, reason: str = ""
) -> list[Row]:
    """Return the summary row of a trace and a row for each hop.

    `found` is None, and `reason` says why, when nothing left this machine: then there is the summary alone, and it is
    *not measured*. Otherwise `reason` is told beside that of `found`. `modem` and `interface` are "" where the routes
    decided.
    """
    who = {name: text for name, text in (("target", target), ("modem", modem), ("interface", interface)) if text}
    summary: dict[str, Value] = {**who, "trigger": trigger}
    if found is None:
        return [_row(boottime_ms, {**summary, "outcome": "not_measured", "reason": reason or "not sent"})]
    answered = [hop for hop in found.hops if hop.address is not None]
    summary |= {
        "outcome": "measured" if answered else "failed",
        "address": found.address,
        "count": sum(hop.address != found.address for hop in answered),
        "reached": int(found.reached),
    }
    if found.pmtu_bytes is not None:
        summary["pmtu_bytes"] = found.pmtu_bytes
    if reason or found.reason:
        summary["reason"] = "; ".join(filter(None, (found.reason, reason)))
    return [_row(boottime_ms, summary), *(_row(boottime_ms, {**who, **_hop_values(hop)}) for hop in found.hops)]


def _hop_values(hop: Hop) -> dict[str, Value]:
    values: dict[str, Value] = {"ttl": hop.ttl, "rtt_us": list(hop.rtt_us)}
    if hop.address is None:
        return values | {"outcome": "failed", "reason": "no answer"}
    return values | {"outcome": "measured", "address": hop.address, "answer": hop.answer}


def _row(boottime_ms: int, values: dict[str, Value]) -> Row:
    return Row("hops", boottime_ms, within_dictionary("hops", values))


def measure_hops(
    target: PathTarget,
    interface: str,
    trigger: Trigger,
    boottime_ms: Callable[[], int],
    names: Names | None = None,
) -> list[Row]:
    """Trace `target` over `interface` ("": the routes decide) and return its rows; under a minute.

    `names` knows where the target was last, should its name not resolve.
    """
    started_ms = boottime_ms()
    found, reason = None, ""
    try:
        address, reason = (names or Names()).address(target.host)
        found = trace(*address, interface=interface)
    except NotSentError as error:
        reason = str(error)
    return hop_rows(target.target, target.modem, trigger, started_ms, found, interface, reason)


@dataclass(slots=True)
class _Train:
    """What the newest train of one target by one method said."""

    outcome: str = ""
    reply_ttl: Value | None = None
    wish: Cause | None = None
    """A trace that is due but came too soon after the last one."""
    traced_failed_ms: int | None = None
    """When this failure was traced; None: not yet, or there is none."""


class TracePolicy:
    """Decides from each `path` row whether its target is traced now; time is the rows' own.

    A failure is traced when it begins and once an hour while it lasts; a change when a target recovers, or when its
    replies come with another time to live. Between two traces of one target there are at least 10 minutes: what is due
    earlier waits for a later row. What was not measured tells nothing. Threads may share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trains: dict[tuple[Value | None, ...], _Train] = {}
        self._traced_ms: dict[tuple[Value | None, ...], int] = {}

    def due(self, row: Row) -> Cause | None:
        """Return why the target of this `path` row is to be traced now, None if it is not; it then counts as traced."""
        if row.values["outcome"] not in ("measured", "failed"):
            return None
        with self._lock:
            return self._due(row.values, row.boottime_ms)

    def _due(self, values: dict[str, Value], now_ms: int) -> Cause | None:
        target = (values.get("target"), values.get("modem"))
        train = self._trains.setdefault((*target, values.get("method")), _Train())
        if values["outcome"] == "failed":
            self._note_failed(train, now_ms)
        else:
            self._note_measured(train, values.get("reply_ttl"))
        last_ms = self._traced_ms.get(target)
        if train.wish is None or (last_ms is not None and now_ms - last_ms < LEAST_APART_MS):
            return None
        self._traced_ms[target] = now_ms
        if train.wish == "failed":
            train.traced_failed_ms = now_ms
        cause, train.wish = train.wish, None
        return cause

    @staticmethod
    def _note_failed(train: _Train, now_ms: int) -> None:
        traced_ms = train.traced_failed_ms
        train.outcome = "failed"
        train.wish = "failed" if traced_ms is None or now_ms - traced_ms >= WHILE_FAILED_MS else None

    @staticmethod
    def _note_measured(train: _Train, reply_ttl: Value | None) -> None:
        recovered = train.outcome == "failed"
        moved = None not in (reply_ttl, train.reply_ttl) and reply_ttl != train.reply_ttl
        if recovered or moved:
            train.wish = "changed"
        train.outcome, train.traced_failed_ms = "measured", None
        if reply_ttl is not None:
            train.reply_ttl = reply_ttl
