"""What is known of every probe right now: pure queries, answered as values; the page and `/status.json` show them.

The newest values are those of the newest boot that counts (not held, not dropped), whatever order its batches came
in; a row's wall time is its date by the boot's anchors, absent while there is none.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, func, select

from banua_collector import boots as standings
from banua_collector.dating import Anchor, Dated, date
from banua_collector.registry import Deployment, Probe, deployments_of, list_probes
from banua_collector.tables import batches, boots, quarantine, streams
from banua_wire.batch import open_rows
from banua_wire.errors import WireError
from banua_wire.fields import BY_KIND, KINDS
from banua_wire.rows import Row, kind_of
from banua_wire.summary import summarise

ONLINE_MS: Final = 10 * 60_000
"""A probe is online while its newest batch was received within this time."""
NEWEST_BATCHES: Final = 6
"""How many of a probe's newest batches are opened for its last values."""
_NEWEST_BOOTS: Final = 2
_SHOWN_KINDS: Final = tuple(kind.name for kind in KINDS if kind.sink == "influx")

State = Literal["online", "late", "never"]


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a row, in its unit."""

    name: str
    value: int | float | str
    unit: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest row of one kind and key; `at` is when it was measured, None if that cannot be told."""

    kind: str
    key: tuple[str, ...]
    values: tuple[Value, ...]
    at: Dated | None
    simulated: bool


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


def status(conn: Connection, now_ms: int) -> Status:
    """Return what is known at `now_ms`."""
    registered = list_probes(conn)
    counted = conn.execute(select(quarantine.c.probe_name, func.count()).group_by(quarantine.c.probe_name))
    kept: dict[str, int] = {name: count for name, count in counted}  # noqa: C416 (dict() does not type rows)
    known = tuple(_probe_status(conn, probe, kept.pop(probe.name, 0), now_ms) for probe in registered)
    return Status(now_ms, known, sum(kept.values()))


def _probe_status(conn: Connection, probe: Probe, quarantined: int, now_ms: int) -> ProbeStatus:
    last_received_ms = conn.execute(
        select(func.max(batches.c.received_ms)).where(batches.c.probe_id == probe.id)
    ).scalar()
    held = conn.execute(
        select(func.count()).where(boots.c.probe_id == probe.id, boots.c.standing == standings.HELD)
    ).scalar_one()
    newest_boots = _newest_boots(conn, probe.id)
    readings = _newest(reading for boot_id in newest_boots for reading in _readings(conn, probe.id, boot_id))
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


def _newest_boots(conn: Connection, probe_id: int) -> Sequence[bytes]:
    """Return the boots that count, newest first: a stream's boots follow each other in the order of their seqs."""
    return (
        conn.execute(
            select(boots.c.boot_id)
            .join(streams, boots.c.stream_id == streams.c.id)
            .where(boots.c.probe_id == probe_id, boots.c.standing.not_in([standings.HELD, "dropped"]))
            .order_by(streams.c.first_seen_ms.desc(), boots.c.first_seq.desc())
            .limit(_NEWEST_BOOTS)
        )
        .scalars()
        .all()
    )


def _readings(conn: Connection, probe_id: int, boot_id: bytes) -> Iterator[Reading]:
    """Give the rows of a boot's newest batches, newest first."""
    mine = (batches.c.probe_id == probe_id, batches.c.boot_id == boot_id)
    newest = select(batches.c.message).where(*mine).order_by(batches.c.last_boottime_ms.desc()).limit(NEWEST_BATCHES)
    rows = [row for message in conn.execute(newest).scalars() for row in _rows(message)]
    known = standings.anchors_of(conn, probe_id, boot_id)
    for row in sorted(rows, key=lambda row: row.boottime_ms, reverse=True):
        if row.kind in _SHOWN_KINDS:
            yield _reading(row, known)


def _rows(message: bytes) -> list[Row]:
    try:
        return open_rows(message)
    except WireError:  # journalled by a newer version of this program: kept, and not for this one to show
        return []


def _newest(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return the first reading of each kind and key, in the dictionary's order."""
    first: dict[tuple[str, tuple[str, ...]], Reading] = {}
    for reading in readings:
        first.setdefault((reading.kind, reading.key), reading)
    return tuple(sorted(first.values(), key=lambda reading: (BY_KIND[reading.kind].id, reading.key)))


def _reading(row: Row, known: Sequence[Anchor]) -> Reading:
    key = tuple(str(part) for part in row.key if part is not None)
    return Reading(row.kind, key, tuple(_values(row)), date(row.boottime_ms, known), row.values.get("simulated") == 1)


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
