"""What a projection has to do next, and all that it depends on: read here, in one consistent state of the journal.

`gather` takes one probe's due batches and every batch that shares their time range, as far as changes reach. Most work
is simpler: new batches beside which nothing stands. `gather_many` takes that of many probes at once, and leaves the
rest to `gather`.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select

from banua_collector import boots as boot_rules
from banua_collector.boots import anchors_by_boot
from banua_collector.dating import Anchor, dates, in_order
from banua_collector.db import among
from banua_collector.opened import Opened
from banua_collector.project.points import Candidate, Point, Speaker, Twins, candidates_of, points
from banua_collector.registry import deployments_by_probe
from banua_collector.tables import batches, boots, probes, todo, written

NAME: Final = "influx"
GROUP: Final = 100
"""Most due batches of one probe taken at once."""
MANY: Final = 200
"""Most due batches of all probes taken at once."""
ROWS: Final = 24_000
"""Most rows in those, or one batch: a batch has up to 4096."""
SPANS: Final = 3
"""Most separate ranges of time in one probe's plain work."""
IDS: Final = 200
"""Most ids in one statement."""
GOOD_ERROR_MS: Final = 2000
"""A row is written once its time is known this well, or its boot is over."""
T = TypeVar("T")
_HOUR_MS: Final = 3_600_000
_PLACED: Final = ("ok", "released")


@dataclass(slots=True)
class Work:
    """The due batches of one probe, and all that their points depend on."""

    probe_id: int
    speaker: Speaker
    todo_ids: list[int] = field(default_factory=list)
    due: set[int] = field(default_factory=set)
    batches: dict[int, Row[Any]] = field(default_factory=dict)
    written: dict[int, Row[Any]] = field(default_factory=dict)
    gone: dict[int, Row[Any]] = field(default_factory=dict)
    """What was written of batches that are moved out since: it cannot be written again until they are imported."""
    candidates: dict[int, list[Candidate]] = field(default_factory=dict)
    withheld: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to happen at the target: ranges to delete (ms), and the batches to write, each with its points."""

    work: Work
    deletes: list[tuple[int, int]]
    writes: dict[int, list[Point]]
    twins: list[Twins]


def waiting_probes(conn: Connection, skip: Iterable[int], limit: int, *, newest: bool = False) -> list[int]:
    """Return the probes whose work has waited longest (or shortest), that first, those in `skip` left out."""
    waiting = select(todo.c.probe_id).where(todo.c.projection == NAME, todo.c.probe_id.not_in(list(skip)))
    order = todo.c.id.desc() if newest else todo.c.id
    return list(dict.fromkeys(conn.execute(waiting.order_by(order).limit(limit)).scalars()))


def gather(conn: Connection, probe_id: int, opened: Opened) -> Plan | None:
    """Return what to do about the oldest work of one probe, None when there is none any more."""
    work = next(iter(_begun(conn, [probe_id], GROUP)), None)
    if work is None:
        return None
    known = _Known(conn, opened)
    _load(conn, [work], known)
    # widen to every batch that shares the range, again as long as that brings a changed batch with its own range
    while near := _near(conn, work):
        _load(conn, [work], known, near)
        if not near & _changed(work, _by_batch(work)[0]):
            break
    return _plan(work)


def gather_many(conn: Connection, probe_ids: Collection[int], opened: Opened, *, newest: bool = False) -> list[Plan]:
    """Return what to do about the oldest (or newest) work of several probes, where it only has to be written."""
    works = _begun(conn, probe_ids, MANY, newest=newest)
    _load(conn, works, _Known(conn, opened))
    crowded = _crowded(conn, works)
    plans = [_plan(work) for work in works if work.probe_id not in crowded]
    return [plan for plan in plans if not plan.deletes]


# --- read ------------------------------------------------------------------------------------------------------------


def _begun(conn: Connection, probe_ids: Collection[int], limit: int, *, newest: bool = False) -> list[Work]:
    """Return the oldest (or newest) `limit` due batches of the probes, as far as they are named."""
    deployed = deployments_by_probe(conn, probe_ids)
    works = {
        probe.id: Work(probe.id, Speaker(probe.name, probe.simulated, tuple(deployed.get(probe.id, ()))))
        for probe in conn.execute(select(probes).where(probes.c.id.in_(probe_ids)))
    }
    oldest = (
        select(todo.c.batch_id)
        .where(todo.c.projection == NAME, todo.c.probe_id.in_(probe_ids))
        .group_by(todo.c.batch_id)
        .order_by(func.max(todo.c.id).desc() if newest else func.min(todo.c.id))
        .limit(limit)
    )
    for some in _in_pieces(_within_rows(conn, conn.execute(oldest).scalars().all())):
        due = select(todo.c.id, todo.c.probe_id, todo.c.batch_id)
        for row in conn.execute(due.where(todo.c.projection == NAME, todo.c.batch_id.in_(some))):
            works[row.probe_id].todo_ids.append(row.id)
            works[row.probe_id].due.add(row.batch_id)
    return [work for work in works.values() if work.due]


def _within_rows(conn: Connection, batch_ids: Sequence[int]) -> Sequence[int]:
    """Return the first of some batches, as many as have `ROWS` together, at least one."""
    rows: dict[int, int] = {}
    for some in _in_pieces(batch_ids):
        found = conn.execute(select(batches.c.id, batches.c.rows).where(batches.c.id.in_(some)))
        rows |= {row.id: row.rows for row in found}
    until = accumulate(rows.get(batch_id, 0) for batch_id in batch_ids)
    return batch_ids[: max(sum(each <= ROWS for each in until), 1)]


def _load(conn: Connection, works: Sequence[Work], known: "_Known", batch_ids: Iterable[int] | None = None) -> None:
    """Read batches (by default those that are due) with what was written of them, and date their rows."""
    by_probe = {work.probe_id: work for work in works}
    wanted = sorted(batch_ids if batch_ids is not None else (each for work in works for each in work.due))
    for some in _in_pieces(wanted):
        found = conn.execute(select(batches).where(batches.c.id.in_(some))).all()
        known.look_up(found)
        for batch in found:
            work = by_probe[batch.probe_id]
            work.batches[batch.id] = batch
            work.candidates[batch.id], work.withheld[batch.id] = known.dated(batch)
        for row in conn.execute(select(written).where(written.c.projection == NAME, written.c.batch_id.in_(some))):
            work = by_probe[row.probe_id]
            (work.written if row.batch_id in work.batches else work.gone)[row.batch_id] = row


def _near(conn: Connection, work: Work) -> set[int]:
    """Return the batches that share the time ranges of `work` and are not in it."""
    near: set[int] = set()
    for first, last in _ranges(work):
        near |= set(conn.execute(select(written.c.batch_id).where(_shares([work.probe_id], first, last))).scalars())
    return near - set(work.batches) - set(work.gone)


def _shares(probe_ids: Collection[int], first_ms: int, last_ms: int) -> ColumnElement[bool]:
    """Return what a `written` row of the probes meets whose points stand, or may stand, in a range of time."""
    return and_(
        written.c.projection == NAME,
        written.c.probe_id.in_(probe_ids),
        written.c.last_ms >= first_ms - 1,
        written.c.first_ms <= last_ms + 1,
    )


def _crowded(conn: Connection, works: Sequence[Work]) -> set[int]:
    """Return the probes beside whose due batches others stand, or whose work is in too many places to look."""
    ranges = {work.probe_id: _ranges(work) for work in works}
    crowded = {probe_id for probe_id, spans in ranges.items() if len(spans) > SPANS}
    alike: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = {}  # fleets speak of the same hours: few questions
    for probe_id, spans in ranges.items():
        for first, last in spans if probe_id not in crowded else ():
            hour_and_length = last // _HOUR_MS, (last - first).bit_length()
            alike.setdefault(hour_and_length, {}).setdefault(probe_id, []).append((first, last))
    here = {batch_id for work in works for batch_id in work.batches}
    for by_probe in alike.values():
        begins = min(first for spans in by_probe.values() for first, _ in spans)
        ends = max(last for spans in by_probe.values() for _, last in spans)
        for row in conn.execute(select(written).where(_shares(list(by_probe), begins, ends))):
            if row.batch_id not in here and _touches(row, by_probe[row.probe_id]):
                crowded.add(row.probe_id)
    return crowded


def _in_pieces(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    return (ids[start : start + IDS] for start in range(0, len(ids), IDS))


class _Known:
    """Anchors and standing of some probes' boots, looked up once each."""

    def __init__(self, conn: Connection, opened: Opened) -> None:
        self._conn, self._opened = conn, opened
        self._boots: dict[tuple[int, bytes], Row[Any]] = {}
        self._anchors: dict[tuple[int, bytes], list[Anchor]] = {}
        self._over: dict[tuple[int, bytes], bool] = {}

    def look_up(self, found: Iterable[Row[Any]]) -> None:
        """Read what is known of the boots of some batches."""
        new = {(batch.probe_id, batch.boot_id) for batch in found} - self._boots.keys()
        if not new:
            return
        for row in self._conn.execute(select(boots).where(among(new, boots.c.probe_id, boots.c.boot_id))):
            self._boots[row.probe_id, row.boot_id] = row
        told = anchors_by_boot(self._conn, new)
        for boot in new:
            self._anchors[boot] = in_order(anchor for _, anchor in told.get(boot, ()))

    def dated(self, batch: Row[Any]) -> tuple[list[Candidate], int]:
        """Return the batch's rows that may be written now, and how many have to wait."""
        who = (batch.probe_id, batch.boot_id)
        boot = self._boots.get(who)
        if boot is None or boot.standing not in _PLACED:
            return [], 0
        candidates: list[Candidate] = []
        rows = 0
        for block in self._opened.blocks(batch.hash, batch.message):
            if block.kind.sink == NAME:
                dated = dates(block.boottimes_ms, self._anchors[who])
                if any(each is None or each.error_ms > GOOD_ERROR_MS for each in dated) and not self._is_over(boot):
                    dated = [None if each is None or each.error_ms > GOOD_ERROR_MS else each for each in dated]
                candidates += candidates_of(block, dated, batch.id, batch.hash, batch.boot_id)
                rows += len(dated)
        return candidates, rows - len(candidates)

    def _is_over(self, boot: Row[Any]) -> bool:
        who = (boot.probe_id, boot.boot_id)
        if who not in self._over:
            others = self._conn.execute(select(boots).where(boots.c.probe_id == boot.probe_id)).all()
            self._over[who] = boot_rules.is_over(boot, list(others))
        return self._over[who]


# --- plan ------------------------------------------------------------------------------------------------------------


def _ranges(work: Work) -> list[tuple[int, int]]:
    """Return the time ranges (ms) of all that was or will be written of `work`, merged where they meet."""
    spans = [
        (min(times), max(times))
        for made in work.candidates.values()
        if (times := [candidate.unix_ms for candidate in made])
    ]
    spans += [(row.first_ms, row.last_ms) for row in work.written.values() if row.first_ms is not None]
    return _merged(spans)


def _by_batch(work: Work) -> tuple[dict[int, list[Point]], list[Twins]]:
    made, twins = points((c for rows in work.candidates.values() for c in rows), work.speaker)
    by_batch: dict[int, list[Point]] = {batch_id: [] for batch_id in work.batches}
    for point in made:
        by_batch[point.batch_id].append(point)
    return by_batch, twins


def _changed(work: Work, by_batch: dict[int, list[Point]]) -> set[int]:
    """Return the batches of which something else stands, or may stand, at the target than should."""
    return {
        batch_id
        for batch_id, row in work.written.items()
        if row.first_ms is not None and row.digest != digest(by_batch[batch_id])
    }


def _plan(work: Work) -> Plan:
    by_batch, twins = _by_batch(work)
    changed = _changed(work, by_batch)
    deletes = _merged((work.written[batch_id].first_ms, work.written[batch_id].last_ms) for batch_id in changed)
    writes = {
        batch_id: by_batch[batch_id]
        for batch_id in work.batches
        if batch_id in work.due or batch_id in changed or _touches(work.written.get(batch_id), deletes)
    }
    return Plan(work, deletes, writes, twins)


def touched(plan: Plan) -> list[int]:
    """Return the batches that are moved out and whose points the plan deletes."""
    return [batch_id for batch_id, row in plan.work.gone.items() if _touches(row, plan.deletes)]


def note_of(plan: Plan, batch_id: int, *, under_way: bool, now_ms: int) -> dict[str, Any]:
    """Return what `written` says of a batch: while it is under way its points may stand where they did before, too."""
    made, before = plan.writes[batch_id], plan.work.written.get(batch_id) if under_way else None
    times = [point.unix_ms for point in made]
    times += [] if before is None or before.first_ms is None else [before.first_ms, before.last_ms]
    return {
        "projection": NAME,
        "probe_id": plan.work.probe_id,
        "batch_id": batch_id,
        "first_ms": min(times, default=None),
        "last_ms": max(times, default=None),
        "digest": None if under_way else digest(made),
        "withheld": plan.work.withheld[batch_id],
        "noted_ms": now_ms,
    }


def digest(made: Iterable[Point]) -> bytes:
    """Return what tells these points from any others."""
    return hashlib.sha256("\n".join(sorted(point.line for point in made)).encode()).digest()


def _touches(row: Row[Any] | None, ranges: list[tuple[int, int]]) -> bool:
    if row is None or row.first_ms is None:
        return False
    return any(row.first_ms <= last + 1 and row.last_ms >= first - 1 for first, last in ranges)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
