"""The journal's projection to InfluxDB: each row once, at its best time, in its place; moved when either changes.

Work comes from `todo`. For the due batches of one probe, the points of every batch that shares their time range are
computed together. A batch whose points changed has its old range deleted and everything in it written anew. That it is
under way, and where points of it may stand from now on, is committed first: a crash anywhere is made good by doing it
again, even if by then the times or places are others.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, select, update

from banua_collector import boots as boot_rules
from banua_collector.dating import Anchor, dates
from banua_collector.db import Claim, insert_or, lock_probes, reading
from banua_collector.project.points import Candidate, Point, Speaker, Twins, candidates_of, points
from banua_collector.project.target import Refusal, Target
from banua_collector.registry import deployments_of
from banua_collector.tables import batches, boots, events, probes, refused, todo, written
from banua_wire.batch import open_blocks

NAME: Final = "influx"
GROUP: Final = 100
"""Most due batches taken at once."""
IDS: Final = 500
"""Most ids in one statement."""
LINES: Final = 5000
"""Most lines in one write."""
GOOD_ERROR_MS: Final = 2000
"""A row is written once its time is known this well, or its boot is over."""
_PLACED: Final = ("ok", "released")


@dataclass(slots=True)
class Work:
    """The due batches of one probe, and all that their points depend on."""

    probe_id: int
    todo_ids: list[int]
    due: set[int]
    batches: dict[int, Row[Any]] = field(default_factory=dict)
    written: dict[int, Row[Any]] = field(default_factory=dict)
    gone: dict[int, Row[Any]] = field(default_factory=dict)
    """What was written of batches that are moved out since: it cannot be written again until they are imported."""
    candidates: dict[int, list[Candidate]] = field(default_factory=dict)
    withheld: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to happen at the target: ranges to delete (ms), and the batches to write, each with its points."""

    deletes: list[tuple[int, int]]
    writes: dict[int, list[Point]]
    twins: list[Twins]


class InfluxProjection:
    """Carries due batches to a target, one probe at a time."""

    def __init__(self, engine: Engine, target: Target, now_ms: Callable[[], int]) -> None:
        """Prepare; `step` does the work."""
        self._engine, self._target, self._now_ms = engine, target, now_ms
        self.points_written = 0
        self.points_refused = 0
        self.ranges_deleted = 0

    def step(self, skip: Iterable[int] = ()) -> int | None:
        """Project the oldest work of one probe not in `skip`; return its probe id, None when there is none."""
        probe_id = self.next_probe(skip)
        if probe_id is not None:
            self.project(probe_id)
        return probe_id

    def project(self, probe_id: int) -> bool:
        """Project the oldest work of one probe; False when another process is at it.

        TargetUnavailableError: nothing is forgotten. Points that the target will never take are kept with its reason.
        """
        claim = Claim(self._engine, NAME, probe_id)
        if not claim.take():
            return False
        try:
            self._project(probe_id)
        finally:
            claim.release()
        return True

    def _project(self, probe_id: int) -> None:
        with reading(self._engine) as conn:
            work, speaker = self._gather(conn, probe_id)
        plan = _plan(work, speaker)
        self._note_under_way(work, plan)
        for first_ms, last_ms in plan.deletes:
            self._target.delete(speaker.probe, first_ms, last_ms)
            self.ranges_deleted += 1
        lines = [point.line for made in plan.writes.values() for point in made]
        refusals: list[Refusal] = []
        for start in range(0, len(lines), LINES):
            refusals += self._target.write(lines[start : start + LINES])
        self.points_written += len(lines) - len(refusals)
        self.points_refused += len(refusals)
        self._note_written(work, plan, refusals)

    def next_probe(self, skip: Iterable[int] = ()) -> int | None:
        """Return the probe whose work has waited longest, those in `skip` left out."""
        with reading(self._engine) as conn:
            oldest = select(todo.c.probe_id).where(todo.c.projection == NAME, todo.c.probe_id.not_in(list(skip)))
            return conn.execute(oldest.order_by(todo.c.id).limit(1)).scalar()

    # --- gather -------------------------------------------------------------------------------------------------------

    def _gather(self, conn: Connection, probe_id: int) -> tuple[Work, Speaker]:
        probe = conn.execute(select(probes).where(probes.c.id == probe_id)).one()
        speaker = Speaker(probe.name, probe.simulated, tuple(deployments_of(conn, probe_id)))
        picked = (
            select(todo.c.batch_id)
            .where(todo.c.projection == NAME, todo.c.probe_id == probe_id)
            .group_by(todo.c.batch_id)
            .order_by(func.min(todo.c.id))
            .limit(GROUP)
        )
        due = set(conn.execute(picked).scalars())
        ids = select(todo.c.id).where(todo.c.projection == NAME, todo.c.batch_id.in_(due))
        work = Work(probe_id, list(conn.execute(ids).scalars()), due)
        known = _Known(conn, probe_id)
        self._load(conn, work, due, known)
        # widen to every batch that shares the range, again as long as that brings a changed batch with its own range
        while True:
            near: set[int] = set()
            for first, last in _ranges(work):
                sharing = select(written.c.batch_id).where(
                    written.c.projection == NAME,
                    written.c.probe_id == probe_id,
                    written.c.last_ms >= first - 1,
                    written.c.first_ms <= last + 1,
                )
                near |= set(conn.execute(sharing).scalars()) - set(work.batches) - set(work.gone)
            if not near:
                break
            self._load(conn, work, near, known)
            if not near & _changed(work, _by_batch(work, speaker)[0]):
                break
        return work, speaker

    def _load(self, conn: Connection, work: Work, batch_ids: set[int], known: "_Known") -> None:
        ids = sorted(batch_ids)
        for start in range(0, len(ids), IDS):
            some = ids[start : start + IDS]
            for batch in conn.execute(select(batches).where(batches.c.id.in_(some))):
                work.batches[batch.id] = batch
                work.candidates[batch.id], work.withheld[batch.id] = known.dated(batch)
            for row in conn.execute(select(written).where(written.c.projection == NAME, written.c.batch_id.in_(some))):
                (work.written if row.batch_id in work.batches else work.gone)[row.batch_id] = row

    # --- commit -------------------------------------------------------------------------------------------------------

    def _note_under_way(self, work: Work, plan: Plan) -> None:
        """Commit, before anything is touched, which batches will be, and between which ms their points may stand."""
        with self._engine.begin() as conn:
            lock_probes(conn, [work.probe_id])
            self._note(conn, work, [_written(work, batch_id, made, None) for batch_id, made in plan.writes.items()])
            if lost := [batch_id for batch_id, row in work.gone.items() if _touches(row, plan.deletes)]:
                theirs = written.c.batch_id.in_(lost)
                conn.execute(update(written).where(written.c.projection == NAME, theirs).values(digest=None))
            for batch_id in set(plan.writes) - work.due:
                also_due = insert(todo).values(
                    projection=NAME, probe_id=work.probe_id, batch_id=batch_id, due_ms=self._now_ms()
                )
                work.todo_ids.append(conn.execute(also_due.returning(todo.c.id)).scalar_one())

    def _note_written(self, work: Work, plan: Plan, refusals: list[Refusal]) -> None:
        with self._engine.begin() as conn:
            lock_probes(conn, [work.probe_id])
            now = [_written(work, batch_id, made, _digest(made)) for batch_id, made in plan.writes.items()]
            self._note(conn, work, now)
            for start in range(0, len(work.todo_ids), IDS):
                conn.execute(delete(todo).where(todo.c.id.in_(work.todo_ids[start : start + IDS])))
            self._note_refused(conn, work, plan, refusals)
            self._note_twins(conn, work, plan.twins)

    def _note(self, conn: Connection, work: Work, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        made = insert_or(conn, written)
        new = {name: made.excluded[name] for name in ("first_ms", "last_ms", "digest", "withheld")}
        by_batch = [written.c.projection, written.c.batch_id]
        always = {"projection": NAME, "probe_id": work.probe_id}
        conn.execute(made.on_conflict_do_update(index_elements=by_batch, set_=new), [always | row for row in rows])

    def _note_refused(self, conn: Connection, work: Work, plan: Plan, refusals: list[Refusal]) -> None:
        """Keep what the target will never take, in place of what was kept of the same batches before."""
        ids = list(plan.writes)
        for start in range(0, len(ids), IDS):
            mine = refused.c.batch_id.in_(ids[start : start + IDS])
            conn.execute(delete(refused).where(refused.c.projection == NAME, mine))
        batch_of = {point.line: point.batch_id for made in plan.writes.values() for point in made} if refusals else {}
        for refusal in refusals:
            conn.execute(
                insert(refused).values(
                    projection=NAME,
                    probe_id=work.probe_id,
                    batch_id=batch_of[refusal.line],
                    line=refusal.line,
                    reason=refusal.reason[:300],
                    noticed_ms=self._now_ms(),
                )
            )

    def _note_twins(self, conn: Connection, work: Work, twins: list[Twins]) -> None:
        for pair in twins:
            dropped = pair.dropped
            detail = f"{dropped.kind} {dropped.key} differs from batch {pair.counted.batch_id}'s"
            place = {"batch_id": dropped.batch_id, "boot_id": dropped.boot_id, "boottime_ms": dropped.boottime_ms}
            known = and_(events.c.name == "twin_rows", *(events.c[name] == value for name, value in place.items()))
            if conn.execute(select(events.c.id).where(known)).first() is None:
                conn.execute(
                    insert(events).values(
                        probe_id=work.probe_id,
                        noticed_ms=self._now_ms(),
                        name="twin_rows",
                        n=pair.counted.batch_id,
                        detail=detail[:300],
                        **place,
                    )
                )


class _Known:
    """Anchors and standing of a probe's boots, looked up once each."""

    def __init__(self, conn: Connection, probe_id: int) -> None:
        self._conn, self._probe_id = conn, probe_id
        self._boots = list(conn.execute(select(boots).where(boots.c.probe_id == probe_id)))
        self._anchors: dict[bytes, list[Anchor]] = {}

    def dated(self, batch: Row[Any]) -> tuple[list[Candidate], int]:
        """Return the batch's rows that may be written now, and how many have to wait."""
        boot = next((row for row in self._boots if row.boot_id == batch.boot_id), None)
        if boot is None or boot.standing not in _PLACED:
            return [], 0
        known = self._anchors_of(batch.boot_id)
        over = boot_rules.is_over(boot, self._boots)
        candidates: list[Candidate] = []
        rows = 0
        for block in open_blocks(batch.message):
            if block.kind.sink == NAME:
                dated = dates(block.boottimes_ms, known)
                if not over:
                    dated = [None if each is None or each.error_ms > GOOD_ERROR_MS else each for each in dated]
                candidates += candidates_of(block, dated, batch.id, batch.hash, batch.boot_id)
                rows += len(dated)
        return candidates, rows - len(candidates)

    def _anchors_of(self, boot_id: bytes) -> list[Anchor]:
        if boot_id not in self._anchors:
            self._anchors[boot_id] = boot_rules.anchors_of(self._conn, self._probe_id, boot_id)
        return self._anchors[boot_id]


def _ranges(work: Work) -> list[tuple[int, int]]:
    """Return the time ranges (ms) of all that was or will be written of `work`, merged where they meet."""
    spans = [
        (min(times), max(times))
        for made in work.candidates.values()
        if (times := [candidate.unix_ms for candidate in made])
    ]
    spans += [(row.first_ms, row.last_ms) for row in work.written.values() if row.first_ms is not None]
    return _merged(spans)


def _by_batch(work: Work, speaker: Speaker) -> tuple[dict[int, list[Point]], list[Twins]]:
    made, twins = points((c for rows in work.candidates.values() for c in rows), speaker)
    by_batch: dict[int, list[Point]] = {batch_id: [] for batch_id in work.batches}
    for point in made:
        by_batch[point.batch_id].append(point)
    return by_batch, twins


def _changed(work: Work, by_batch: dict[int, list[Point]]) -> set[int]:
    """Return the batches of which something else stands, or may stand, at the target than should."""
    return {
        batch_id
        for batch_id, row in work.written.items()
        if row.first_ms is not None and row.digest != _digest(by_batch[batch_id])
    }


def _plan(work: Work, speaker: Speaker) -> Plan:
    by_batch, twins = _by_batch(work, speaker)
    changed = _changed(work, by_batch)
    deletes = _merged((work.written[batch_id].first_ms, work.written[batch_id].last_ms) for batch_id in changed)
    writes = {
        batch_id: by_batch[batch_id]
        for batch_id in work.batches
        if batch_id in work.due or batch_id in changed or _touches(work.written.get(batch_id), deletes)
    }
    return Plan(deletes, writes, twins)


def _written(work: Work, batch_id: int, made: list[Point], digest: bytes | None) -> dict[str, Any]:
    """Return what is noted of a batch; without a digest its points may stand where they did before, too."""
    row = work.written.get(batch_id) if digest is None else None
    first_ms, last_ms = _extent(made, None if row is None else (row.first_ms, row.last_ms))
    withheld = work.withheld[batch_id]
    return {"batch_id": batch_id, "first_ms": first_ms, "last_ms": last_ms, "digest": digest, "withheld": withheld}


def _extent(made: Iterable[Point], known: tuple[int | None, int | None] | None = None) -> tuple[int | None, int | None]:
    """Return first and last ms of `made` and of what is `known` to stand there."""
    times = [point.unix_ms for point in made] + [time for time in known or () if time is not None]
    return min(times, default=None), max(times, default=None)


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


def _digest(made: Iterable[Point]) -> bytes:
    return hashlib.sha256("\n".join(sorted(point.line for point in made)).encode()).digest()


def backlog(conn: Connection) -> tuple[int, int | None]:
    """Return how many batches this projection has still to write, and since when the oldest of them is due (ms)."""
    due = select(func.count(todo.c.batch_id.distinct()), func.min(todo.c.due_ms)).where(todo.c.projection == NAME)
    count, oldest = conn.execute(due).one()
    return count, oldest


def age_s(due_ms: int | None, now_ms: int) -> float:
    """Return how long something is due since `due_ms`, in seconds; 0 when there is nothing."""
    return 0.0 if due_ms is None else max(now_ms - due_ms, 0) / 1000
