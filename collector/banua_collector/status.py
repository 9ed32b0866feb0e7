"""What is known of every probe right now: pure queries, answered as values; the page and `/status.json` show them.

The newest values are those of the newest boot that counts (not held, not dropped), whatever order its batches came
in; a row's wall time is its date by the boot's anchors, absent while there is none. What is measured seldom is shown
for SHOWN_MS. A batch never changes, so each is opened once, newest first, and the newest row of each kind and key is
remembered.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, func, select

from banua_collector import boots as standings
from banua_collector.dating import Anchor, Dated, date
from banua_collector.registry import Deployment, Probe, deployments_of, list_probes
from banua_collector.tables import batches, boots, quarantine, streams
from banua_wire.batch import open_rows
from banua_wire.errors import WireError
from banua_wire.fields import BY_KIND, KINDS
from banua_wire.rows import Key, Row, kind_of
from banua_wire.summary import summarise

ONLINE_MS: Final = 10 * 60_000
"""A probe is online while its newest batch was received within this time."""
SHOWN_MS: Final = 25 * 3_600_000
"""How much older than a probe's newest row another may be and still be shown: what is measured once a day is."""
BATCHES_OF_A_BOOT: Final = 300
"""How many of a boot's newest batches are opened: a day of them, sealed every 5 minutes."""
BATCHES_AT_ONCE: Final = 1200
"""How many batches one answer opens, shared among the probes: with many of them, old rows come with later answers."""
_NEWEST_BOOTS: Final = 6
_ENTRY: Final = {"hops": "ttl", "wifi": "bssid", "operators": "plmn", "neighbours": "earfcn"}
_SHOWN_KINDS: Final = frozenset(kind.name for kind in KINDS if kind.sink == "influx")

State = Literal["online", "late", "never"]


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a row, in its unit."""

    name: str
    value: int | float | str
    unit: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest row of one kind and key; `at` is when it was measured, None if that cannot be told.

    `entry`: one of those that another row sums up, such as one Wi-Fi network of a scan.
    """

    kind: str
    key: tuple[str, ...]
    values: tuple[Value, ...]
    at: Dated | None
    simulated: bool
    entry: bool = False


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """One probe; `where` None: it stands nowhere now; `backlog` None: it never told its number of waiting batches."""

    name: str
    simulated: bool
    where: Deployment | None
    state: State
    last_received_ms: int | None
    readings: tuple[Reading, ...]
    backlog: int | None
    quarantined: int
    held_boots: int


@dataclass(frozen=True, slots=True)
class Status:
    """Every probe by name, at one moment; `strangers` counts what is in quarantine under names nobody registered."""

    at_ms: int
    probes: tuple[ProbeStatus, ...]
    strangers: int


def status(conn: Connection, now_ms: int, at_once: int = BATCHES_AT_ONCE) -> Status:
    """Return what is known at `now_ms`, after opening about `at_once` batches that were not opened before."""
    registered = list_probes(conn)
    counted = conn.execute(select(quarantine.c.probe_name, func.count()).group_by(quarantine.c.probe_name))
    kept: dict[str, int] = {name: count for name, count in counted}  # noqa: C416 (dict() does not type rows)
    share = max(1, at_once // max(1, len(registered)))
    known = tuple(_probe_status(conn, probe, kept.pop(probe.name, 0), share, now_ms) for probe in registered)
    return Status(now_ms, known, sum(kept.values()))


def _probe_status(conn: Connection, probe: Probe, quarantined: int, share: int, now_ms: int) -> ProbeStatus:
    last_received_ms = conn.execute(
        select(func.max(batches.c.received_ms)).where(batches.c.probe_id == probe.id)
    ).scalar()
    held = conn.execute(
        select(func.count()).where(boots.c.probe_id == probe.id, boots.c.standing == standings.HELD)
    ).scalar_one()
    readings = _readings(conn, probe.id, share)
    return ProbeStatus(
        probe.name,
        probe.simulated,
        next((one for one in deployments_of(conn, probe.id) if one.covers(now_ms)), None),
        _state(last_received_ms, now_ms),
        last_received_ms,
        readings,
        _backlog(readings),
        quarantined,
        held,
    )


def _state(last_received_ms: int | None, now_ms: int) -> State:
    if last_received_ms is None:
        return "never"
    return "online" if now_ms - last_received_ms <= ONLINE_MS else "late"


@dataclass(frozen=True, slots=True)
class _Span:
    """A boot, and from which CLOCK_BOOTTIME on its rows are shown."""

    boot_id: bytes
    from_ms: int


def _newest_boots(conn: Connection, probe_id: int) -> list[_Span]:
    """Return the boots that count, newest first: a stream's boots follow each other in the order of their seqs.

    Those that ended over SHOWN_MS before the newest end are left out, where both are dated.
    """
    found = conn.execute(
        select(boots.c.boot_id, boots.c.last_boottime_ms, boots.c.end_ms)
        .join(streams, boots.c.stream_id == streams.c.id)
        .where(
            boots.c.probe_id == probe_id,
            boots.c.standing.not_in([standings.HELD, "dropped"]),
            boots.c.last_boottime_ms.is_not(None),
        )
        .order_by(streams.c.first_seen_ms.desc(), boots.c.first_seq.desc())
        .limit(_NEWEST_BOOTS)
    ).all()
    newest_ms = max((end_ms for *_, end_ms in found if end_ms is not None), default=0)
    spans: list[_Span] = []
    for boot_id, last_boottime_ms, end_ms in found:
        left_ms = SHOWN_MS if end_ms is None else SHOWN_MS - (newest_ms - end_ms)
        if left_ms >= 0:
            spans.append(_Span(boot_id, last_boottime_ms - left_ms))
    return spans


def _readings(conn: Connection, probe_id: int, share: int) -> tuple[Reading, ...]:
    """Return the newest row of each kind and key, in the dictionary's order."""
    spans = _newest_boots(conn, probe_id)
    opened = _OPENED.setdefault(conn.engine, _Opened()).rows(conn, probe_id, spans, share)
    newest: dict[tuple[str, Key], Reading] = {}
    for span, rows in zip(spans, opened, strict=True):
        fresh = [row for row in rows if (row.kind, row.key) not in newest]
        known = standings.anchors_of(conn, probe_id, span.boot_id) if fresh else []
        newest |= {(row.kind, row.key): _reading(row, known) for row in fresh}
    return tuple(sorted(newest.values(), key=lambda reading: (BY_KIND[reading.kind].id, reading.key)))


@dataclass(slots=True)
class _Boot:
    """Which of a boot's newest batches were opened, and the newest row of each kind and key in them."""

    opened: set[int] = dataclasses.field(default_factory=set)
    newest: dict[tuple[str, Key], Row] = dataclasses.field(default_factory=dict)

    def open_more(self, conn: Connection, probe_id: int, span: _Span, share: int) -> int:
        """Open the newest batches of the span that were not yet, at most `share`; return how many those were."""
        found = conn.execute(
            select(batches.c.id)
            .where(
                batches.c.probe_id == probe_id,
                batches.c.boot_id == span.boot_id,
                batches.c.last_boottime_ms >= span.from_ms,
            )
            .order_by(batches.c.last_boottime_ms.desc())
            .limit(BATCHES_OF_A_BOOT)
        )
        known = found.scalars().all()
        fresh = [batch_id for batch_id in known if batch_id not in self.opened][:share]
        self.opened = self.opened.intersection(known).union(fresh)
        self.newest = {key: row for key, row in self.newest.items() if row.boottime_ms >= span.from_ms}
        if fresh:
            for message in conn.execute(select(batches.c.message).where(batches.c.id.in_(fresh))).scalars():
                self._keep(_rows(message), span.from_ms)
        return len(fresh)

    def _keep(self, rows: Sequence[Row], from_ms: int) -> None:
        for row in rows:
            before = self.newest.get((row.kind, row.key))
            if row.boottime_ms >= from_ms and (before is None or before.boottime_ms < row.boottime_ms):
                self.newest[row.kind, row.key] = row


class _Opened:
    """What the batches of a database that were opened so far say. Threads may share one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._boots: dict[int, dict[bytes, _Boot]] = {}

    def rows(self, conn: Connection, probe_id: int, spans: Sequence[_Span], share: int) -> list[list[Row]]:
        """Return the newest row of each kind and key for each span, after opening at most `share` more batches.

        The probe's other boots are forgotten.
        """
        with self._lock:
            before = self._boots.get(probe_id, {})
            mine = self._boots[probe_id] = {span.boot_id: before.get(span.boot_id, _Boot()) for span in spans}
            for span in spans:
                share -= mine[span.boot_id].open_more(conn, probe_id, span, share)
            return [list(mine[span.boot_id].newest.values()) for span in spans]


_OPENED: Final[WeakKeyDictionary[Engine, _Opened]] = WeakKeyDictionary()


def _rows(message: bytes) -> list[Row]:
    try:
        return [row for row in open_rows(message) if row.kind in _SHOWN_KINDS]
    except WireError:  # journalled by a newer version of this program: kept, and not for this one to show
        return []


def _reading(row: Row, known: Sequence[Anchor]) -> Reading:
    key = tuple(str(part) for part in row.key if part is not None)
    return Reading(
        row.kind,
        key,
        tuple(_values(row)),
        date(row.boottime_ms, known),
        simulated=row.values.get("simulated") == 1,
        entry=_ENTRY.get(row.kind) in row.values,
    )


def _values(row: Row) -> Iterator[Value]:
    kind = kind_of(row)
    for field in kind.fields:
        value = row.values.get(field.name)
        if value is None or field.name == "simulated" or field.name in kind.key:
            continue
        if isinstance(value, list):
            yield from _figures(value)
        else:
            yield Value(field.name, value, field.unit)


def _figures(train: Sequence[float | None]) -> Iterator[Value]:
    """Give the figures of a train of round trips: nobody reads the train itself."""
    for name, figure in summarise(train).items():
        yield Value(name, figure, "ms" if name.endswith("_ms") else "")


def _backlog(readings: Sequence[Reading]) -> int | None:
    for reading in readings:
        for value in reading.values:
            if (reading.kind, value.name) == ("board", "outbox_waiting") and isinstance(value.value, int):
                return value.value
    return None
