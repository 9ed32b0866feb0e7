"""The journal's projection to InfluxDB: each row once, at its best time, in its place; moved when either changes.

Work comes from `todo`; what it means is told by `gather`. A batch whose points changed has its old range deleted and
everything in it written anew. That it is under way, and where points of it may stand from now on, is committed first: a
crash anywhere is made good by doing it again, even if by then the times or places are others.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, or_, select, update

from banua_collector.db import Claim, insert_or, lock_probes, reading
from banua_collector.journal import due_batches
from banua_collector.opened import Opened
from banua_collector.project.gather import IDS, MANY, NAME, Plan, gather, gather_many, note_of, touched, waiting_probes
from banua_collector.project.target import Refusal, Target
from banua_collector.tables import events, refused, targets, todo, written

FORGETS_MS: Final = 8 * 86_400_000
"""How far back a target that was started anew may have forgotten: InfluxDB's log of one shard spans up to 7 days."""
LINES: Final = 5000
"""Most lines in one write."""


class InfluxProjection:
    """Carries due batches to a target."""

    def __init__(self, engine: Engine, target: Target, now_ms: Callable[[], int], opened: Opened | None = None) -> None:
        """Prepare; `step` does the work. `opened` may know batches that this process has just read."""
        self._engine, self._target, self._now_ms = engine, target, now_ms
        self._opened = opened or Opened(time.monotonic)
        self._newest = True
        self.points_written = 0
        self.points_refused = 0
        self.ranges_deleted = 0

    def step(self, skip: Iterable[int] = ()) -> int | None:
        """Project the oldest work of one probe not in `skip`; return its probe id, None when there is none."""
        probe_id = self.next_probe(skip)
        if probe_id is not None:
            self.project(probe_id)
        return probe_id

    def next_probe(self, skip: Iterable[int] = ()) -> int | None:
        """Return the probe whose work has waited longest, those in `skip` left out."""
        with reading(self._engine) as conn:
            return next(iter(waiting_probes(conn, skip, 1)), None)

    def project(self, probe_id: int) -> bool:
        """Project the oldest work of one probe; False when another process is at it.

        TargetUnavailableError: nothing is forgotten. Points that the target will never take are kept with its reason.
        """
        with Claim(self._engine, NAME) as claim:
            if not claim.take([probe_id]):
                return False
            with reading(self._engine) as conn:
                plan = gather(conn, probe_id, self._opened)
            self._carry_out([] if plan is None else [plan])
        return True

    def project_plain(self, skip: Iterable[int] = ()) -> int:
        """Project work of many probes where it only has to be written; return how many batches it was.

        The oldest and the newest take turns: while a month is written anew, what comes now is not kept waiting. As
        `project`; what needs more than writing is left to it.
        """
        self._newest = not self._newest
        with Claim(self._engine, NAME) as claim:
            with reading(self._engine) as conn:
                waiting = waiting_probes(conn, skip, MANY, newest=self._newest)
            claimed = claim.take(waiting) if waiting else []
            if not claimed:
                return 0
            with reading(self._engine) as conn:
                plans = gather_many(conn, claimed, self._opened, newest=self._newest)
            self._carry_out(plans)
        return sum(len(plan.writes) for plan in plans)

    def mind_restart(self) -> int:
        """Make due what a target that was started anew may have forgotten; return how many batches that is.

        InfluxDB 2.7 that is killed while it writes its log keeps a gap there, and after the next kill it drops what
        follows the gap, confirmed or not: everything since the log was last turned into files.
        """
        started_s = self._target.started_s()
        if started_s is None:
            return 0
        recent = and_(written.c.projection == NAME, written.c.noted_ms >= self._now_ms() - FORGETS_MS)
        with reading(self._engine) as conn:
            known_s = conn.execute(select(targets.c.started_s).where(targets.c.projection == NAME)).scalar()
            if known_s == started_s:
                return 0
            of_probes = select(written.c.probe_id).where(recent).distinct()
            probe_ids = [] if known_s is None else conn.execute(of_probes).scalars().all()
        due = 0
        for probe_id in probe_ids:  # a commit each: days of a province are millions of batches
            with self._engine.begin() as conn:
                mine = select(written.c.batch_id).where(recent, written.c.probe_id == probe_id)
                due += due_batches(conn, probe_id, conn.execute(mine).scalars().all(), self._now_ms())
        with self._engine.begin() as conn:  # last: what a crash leaves undone is done again
            noted = insert_or(conn, targets).values(projection=NAME, started_s=started_s)
            told = {"started_s": started_s}
            conn.execute(noted.on_conflict_do_update(index_elements=[targets.c.projection], set_=told))
        return due

    def _carry_out(self, plans: Sequence[Plan]) -> None:
        if not plans:
            return
        began_ms = self._now_ms()
        self._note_under_way(plans, began_ms)
        for plan in plans:
            for first_ms, last_ms in plan.deletes:
                self._target.delete(plan.work.speaker.probe, first_ms, last_ms)
                self.ranges_deleted += 1
        lines = [point.line for plan in plans for made in plan.writes.values() for point in made]
        refusals: list[Refusal] = []
        for start in range(0, len(lines), LINES):
            refusals += self._target.write(lines[start : start + LINES])
        self.points_written += len(lines) - len(refusals)
        self.points_refused += len(refusals)
        self._note_written(plans, refusals, began_ms)

    # --- commit -------------------------------------------------------------------------------------------------------

    def _note_under_way(self, plans: Sequence[Plan], now_ms: int) -> None:
        """Commit, before anything is touched, which batches will be, and between which ms their points may stand."""
        with self._engine.begin() as conn:
            lock_probes(conn, [plan.work.probe_id for plan in plans])
            self._note(conn, plans, under_way=True, now_ms=now_ms)
            for plan in plans:
                if lost := touched(plan):
                    theirs = written.c.batch_id.in_(lost)
                    conn.execute(update(written).where(written.c.projection == NAME, theirs).values(digest=None))
                for batch_id in set(plan.writes) - plan.work.due:
                    also_due = insert(todo).values(
                        projection=NAME, probe_id=plan.work.probe_id, batch_id=batch_id, due_ms=now_ms
                    )
                    plan.work.todo_ids.append(conn.execute(also_due.returning(todo.c.id)).scalar_one())

    def _note_written(self, plans: Sequence[Plan], refusals: list[Refusal], began_ms: int) -> None:
        done = [todo_id for plan in plans for todo_id in plan.work.todo_ids]
        with self._engine.begin() as conn:
            lock_probes(conn, [plan.work.probe_id for plan in plans])
            beside = self._noted_beside(conn, plans, began_ms)
            self._note(conn, plans, under_way=False, now_ms=self._now_ms())
            for start in range(0, len(done), IDS):
                conn.execute(delete(todo).where(todo.c.id.in_(done[start : start + IDS])))
            self._note_refused(conn, plans, refusals)
            for plan in plans:
                self._note_twins(conn, plan)
            self._do_again(conn, beside)

    def _noted_beside(self, conn: Connection, plans: Sequence[Plan], began_ms: int) -> list[Row[Any]]:
        """Return what another process has noted of our batches since we began: our claim died on the way."""
        ids = [batch_id for plan in plans for batch_id in plan.writes]
        found: list[Row[Any]] = []
        for start in range(0, len(ids), IDS):
            mine = select(written).where(written.c.projection == NAME, written.c.batch_id.in_(ids[start : start + IDS]))
            found += conn.execute(mine.where(or_(written.c.digest.is_not(None), written.c.noted_ms != began_ms)))
        return found

    def _do_again(self, conn: Connection, beside: Sequence[Row[Any]]) -> None:
        """Have batches that two processes wrote at once deleted and written once more, wherever either put them."""
        for row in beside:
            ours = and_(written.c.projection == NAME, written.c.batch_id == row.batch_id)
            now = conn.execute(select(written.c.first_ms, written.c.last_ms).where(ours)).one()
            times = [time for time in (row.first_ms, row.last_ms, now.first_ms, now.last_ms) if time is not None]
            span = {"first_ms": min(times, default=None), "last_ms": max(times, default=None), "digest": None}
            conn.execute(update(written).where(ours).values(span))
            due_batches(conn, row.probe_id, [row.batch_id], self._now_ms())

    def _note(self, conn: Connection, plans: Sequence[Plan], *, under_way: bool, now_ms: int) -> None:
        rows = [note_of(plan, each, under_way=under_way, now_ms=now_ms) for plan in plans for each in plan.writes]
        if not rows:
            return
        made = insert_or(conn, written)
        new = {name: made.excluded[name] for name in ("first_ms", "last_ms", "digest", "withheld", "noted_ms")}
        by_batch = [written.c.projection, written.c.batch_id]
        conn.execute(made.on_conflict_do_update(index_elements=by_batch, set_=new), rows)

    def _note_refused(self, conn: Connection, plans: Sequence[Plan], refusals: list[Refusal]) -> None:
        """Keep what the target will never take, in place of what was kept of the same batches before."""
        ids = [batch_id for plan in plans for batch_id in plan.writes]
        for start in range(0, len(ids), IDS):
            mine = refused.c.batch_id.in_(ids[start : start + IDS])
            conn.execute(delete(refused).where(refused.c.projection == NAME, mine))
        if not refusals:
            return
        whose = {
            point.line: (plan.work.probe_id, batch_id)
            for plan in plans
            for batch_id, made in plan.writes.items()
            for point in made
        }
        for refusal in refusals:
            probe_id, batch_id = whose[refusal.line]
            conn.execute(
                insert(refused).values(
                    projection=NAME,
                    probe_id=probe_id,
                    batch_id=batch_id,
                    line=refusal.line,
                    reason=refusal.reason[:300],
                    noticed_ms=self._now_ms(),
                )
            )

    def _note_twins(self, conn: Connection, plan: Plan) -> None:
        for pair in plan.twins:
            dropped = pair.dropped
            detail = f"{dropped.kind} {dropped.key} differs from batch {pair.counted.batch_id}'s"
            place = {"batch_id": dropped.batch_id, "boot_id": dropped.boot_id, "boottime_ms": dropped.boottime_ms}
            known = and_(events.c.name == "twin_rows", *(events.c[name] == value for name, value in place.items()))
            if conn.execute(select(events.c.id).where(known)).first() is None:
                conn.execute(
                    insert(events).values(
                        probe_id=plan.work.probe_id,
                        noticed_ms=self._now_ms(),
                        name="twin_rows",
                        n=pair.counted.batch_id,
                        detail=detail[:300],
                        **place,
                    )
                )


def backlog(conn: Connection) -> tuple[int, int | None]:
    """Return how many batches this projection has still to write, and since when the oldest of them is due (ms)."""
    due = select(func.count(todo.c.batch_id.distinct()), func.min(todo.c.due_ms)).where(todo.c.projection == NAME)
    count, oldest = conn.execute(due).one()
    return count, oldest


def age_s(due_ms: int | None, now_ms: int) -> float:
    """Return how long something is due since `due_ms`, in seconds; 0 when there is nothing."""
    return 0.0 if due_ms is None else max(now_ms - due_ms, 0) / 1000
