"""Months out to files and back in: whatever happens on the way, the journal is afterwards what it was."""

import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from banua_collector import archive, db, journal, months, registry, registry_file
from banua_collector.clock import month_span
from banua_collector.errors import ArchiveError
from banua_collector.tables import archives, batches, boots, keys, todo, written
from banua_collector.verify import Message
from banua_wire.batch import digest
from banua_wire.rows import Row
from tests.collector.fleet import radio
from tests.collector.history import (
    DAY,
    HOUR,
    LATER,
    MONTHS,
    OTHER_SECRET,
    at,
    bring_in,
    export_all,
    fill,
    hear,
    nothing,
    picture,
    project,
    rows_sha256,
    standing,
)
from tests.collector.memory import MemoryTarget
from tests.collector.speech import A, anchor, message, register


@pytest.fixture
def full(engine: Engine) -> Engine:
    """The history, all of it projected."""
    fill(engine)
    return engine


@pytest.fixture
def target(full: Engine) -> MemoryTarget:
    target = MemoryTarget()
    project(full, target)
    return target


def _move_out(engine: Engine, month: str, folder: Path, checkpoint: Callable[[str], None] = nothing) -> Path:
    (done,) = months.export_and_remove(engine, month, folder, now_ms=LATER, checkpoint=checkpoint)
    return done.path


def _here(engine: Engine, month: str) -> int:
    with db.reading(engine) as conn:
        return len(conn.execute(months._of_month(batches, month_span(month))).all())


# --- into another journal, into the same one


def test_a_journal_rebuilt_from_its_files_is_the_same_and_projects_the_same_points(
    full: Engine, fresh: Engine, tmp_path: Path
) -> None:
    points = project(full)
    paths, registered = export_all(full, tmp_path / "out")
    outcomes = bring_in(fresh, random.Random(5).sample(paths, len(paths)), registered)
    assert outcomes == {"journalled": 9, "kept": 4}
    assert rows_sha256(fresh) == rows_sha256(full)
    assert picture(fresh) == picture(full)
    assert len(points) > 10
    assert project(fresh) == points
    again = bring_in(fresh, paths, registered)
    assert {name: count for name, count in again.items() if count} == {"duplicate": 9}
    assert picture(fresh) == picture(full)


def test_a_month_that_was_moved_out_goes_back_under_its_own_ids_and_is_written_anew(
    full: Engine, target: MemoryTarget, tmp_path: Path
) -> None:
    before, points = picture(full), dict(target.points)
    with db.reading(full) as conn:
        ids = conn.execute(select(batches.c.id, batches.c.hash).order_by(batches.c.id)).all()
    paths = [_move_out(full, month, tmp_path) for month in MONTHS]
    assert standing(full) == 1
    assert {name: rows for name, rows in picture(full).items() if name != "batches"} == {
        name: rows for name, rows in before.items() if name != "batches"
    }
    assert hear(full, message(1, [radio(77)], received_ms=LATER)) == ["conflict"]
    assert project(full, target) == points
    assert bring_in(full, paths)["put_back"] == 8
    with db.reading(full) as conn:
        assert conn.execute(select(batches.c.id, batches.c.hash).order_by(batches.c.id)).all() == ids
    assert picture(full) == before
    assert project(full, target) == points
    assert {name: count for name, count in bring_in(full, paths).items() if count} == {"duplicate": 8}


def test_what_is_sent_again_while_its_month_is_out_is_a_duplicate(
    full: Engine, target: MemoryTarget, tmp_path: Path
) -> None:
    with db.reading(full) as conn:
        first = conn.execute(select(batches.c.message).order_by(batches.c.id).limit(1)).scalar_one()
    _move_out(full, MONTHS[0], tmp_path)
    came = Message("banua/v1/p1/batch", bytes(first), LATER)
    assert hear(full, came) == ["duplicate"]
    assert _here(full, MONTHS[0]) == 0
    assert target.points


def test_a_place_corrected_while_a_month_is_out_is_written_right_once_it_is_in(
    full: Engine, target: MemoryTarget, tmp_path: Path
) -> None:
    path = _move_out(full, MONTHS[0], tmp_path)
    with full.begin() as conn:
        affected = registry.correct_deployment(conn, 1, place="two")
        journal.mark_range(conn, affected, LATER)
        moved = journal.moved_out(conn, affected)
    assert moved == {"2026-03": 2}
    assert months.told(moved).endswith(": 2 of 2026-03: import them first to have them written anew")
    project(full, target)
    assert any("place=one" in series for series, _ in target.points)
    bring_in(full, [path])
    project(full, target)
    assert not any("place=one" in series for series, _ in target.points)
    assert target.points == project_anew(full)


def project_anew(engine: Engine) -> dict[tuple[str, int], str]:
    """Return what an empty target gets."""
    with engine.begin() as conn:
        for probe in registry.list_probes(conn):
            journal.replay(conn, registry.Affected(probe.id, 0, None), LATER)
    return project(engine)


def test_what_is_deleted_beside_a_month_that_is_out_is_known_as_missing(full: Engine, tmp_path: Path) -> None:
    """Deleting works by time alone: what shares the time of a batch that is written anew is deleted with it."""
    edge, boot = at("2026-03-31T23:59:00"), b"e" * 16
    outer = [radio(10 * DAY + 1000), radio(10 * DAY + 2 * HOUR)]
    inner = [anchor(10 * DAY, edge), radio(10 * DAY + HOUR)]
    hear(full, message(20, inner, boot=boot, received_ms=edge), message(21, outer, boot=boot, received_ms=edge + HOUR))
    hear(full, message(22, [], received_ms=LATER))
    with full.begin() as conn:
        conn.execute(boots.update().values(standing="released"))
    target = MemoryTarget()
    points = dict(project(full, target))
    assert any(ns // 1_000_000 == edge + HOUR for _, ns in points)
    path = _move_out(full, MONTHS[0], tmp_path)
    with full.begin() as conn:
        beside = select(batches.c.id).where(batches.c.boot_id == boot).scalar_subquery()
        conn.execute(written.update().where(written.c.batch_id == beside).values(digest=b"otherwise"))
        journal.due_where(conn, 1, LATER, batches.c.boot_id == boot)
    assert len(project(full, target)) < len(points)
    with db.reading(full) as conn:
        its_own = written.c.batch_id.not_in(select(batches.c.id))
        assert len(conn.execute(select(written).where(its_own, written.c.digest.is_(None))).all()) == 1
        assert conn.execute(select(todo)).all() == []
    bring_in(full, [path])
    assert project(full, target) == points


# --- what may go


def test_nothing_goes_that_the_file_on_the_disk_does_not_prove(
    full: Engine, target: MemoryTarget, tmp_path: Path
) -> None:
    def damage(point: str) -> None:
        if point == "after_export":
            (path,) = tmp_path.glob("*.journal")
            path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ArchiveError, match=r"its SHA-256 is not that of its manifest"):
        _move_out(full, MONTHS[0], tmp_path, damage)
    assert _here(full, MONTHS[0]) == 2
    assert target.points


@pytest.mark.parametrize(
    ("month", "now_ms", "why"),
    [
        ("2026-05", at("2026-08-29"), r"2026-05 may be removed from 2026-08-30T00:00:00Z on, 90 days after its end"),
        ("2026-10", at("2027-10-01"), r"2026-10 holds the batch that was journalled last"),
        ("2026-02", LATER, r"no batch received in 2026-02 is in the journal"),
        ("2026-13", LATER, r"'2026-13' is not a month like 2026-11"),
    ],
)
def test_what_may_not_go_stays(
    full: Engine, target: MemoryTarget, tmp_path: Path, month: str, now_ms: int, why: str
) -> None:
    before = standing(full)
    with pytest.raises(Exception, match=why):
        months.export_and_remove(full, month, tmp_path, now_ms=now_ms, checkpoint=nothing)
    assert standing(full) == before
    assert target.points


def test_what_is_still_to_be_written_stays(full: Engine, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"2 batches of 2026-03 are still to be written to InfluxDB"):
        _move_out(full, MONTHS[0], tmp_path)
    assert _here(full, MONTHS[0]) == 2
    project(full)

    def becomes_due(point: str) -> None:
        if point == "after_export":
            with full.begin() as conn:
                journal.mark_range(conn, registry.Affected(1, 0, None), LATER)

    with pytest.raises(ArchiveError, match=r"still to be written"):
        _move_out(full, MONTHS[0], tmp_path, becomes_due)
    assert _here(full, MONTHS[0]) == 2


def test_retention_moves_out_the_closed_months_and_keeps_the_last_90_days(
    full: Engine, target: MemoryTarget, tmp_path: Path
) -> None:
    told: list[str] = []

    def retain(days: int, now_ms: int) -> tuple[int, list[str]]:
        return months.retain(full, days, tmp_path, now_ms=now_ms, tell=told.append, checkpoint=nothing)

    with pytest.raises(ArchiveError, match=r"--days 89: the last 90 days stay in the journal"):
        retain(89, LATER)
    assert retain(90, at("2026-07-29T23:59:59")) == (2, [])
    assert [_here(full, month) for month in MONTHS] == [0, 3, 3]
    assert retain(90, at("2026-07-30")) == (3, [])
    with full.begin() as conn:
        journal.due_where(conn, 1, LATER, batches.c.received_ms > at("2026-05-01"))
    gone, kept = retain(90, LATER)
    assert (gone, len(kept)) == (0, 1)
    project(full, target)
    assert retain(90, LATER) == (3, [])
    assert [line.split(":")[0] for line in told] == [*MONTHS, MONTHS[2]]
    assert standing(full) == 1
    assert retain(90, LATER) == (0, [])
    with db.reading(full) as conn:
        noted = conn.execute(select(archives).order_by(archives.c.month)).all()
    assert [(row.month, row.batches) for row in noted] == list(zip(MONTHS, (2, 3, 3), strict=True))
    assert all((tmp_path / row.file).exists() for row in noted)


# --- crashes


class Crash(BaseException):
    """The end of the process, as far as the code can tell."""


@pytest.mark.parametrize("point", ["after_export", "after_note", "while_removing"])
def test_a_crash_on_the_way_out_is_made_good_by_doing_it_again(
    full: Engine, fresh: Engine, target: MemoryTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(months, "_PAGE", 1)
    before = picture(full)

    def crash(reached: str) -> None:
        if reached == point:
            raise Crash

    if full.dialect.name == db.POSTGRESQL and point != "after_export":  # there it goes at once
        _move_out(full, MONTHS[1], tmp_path)
    else:
        with pytest.raises(Crash):
            _move_out(full, MONTHS[1], tmp_path, crash)
        _move_out(full, MONTHS[1], tmp_path)
    assert _here(full, MONTHS[1]) == 0
    assert len(list(tmp_path.glob("banua-2026-04-*.journal"))) == 1
    paths, registered = export_all(full, tmp_path)
    bring_in(fresh, [*paths, *tmp_path.glob("banua-2026-04-*.journal")], registered)
    assert picture(fresh) == before
    assert target.points


def test_a_crash_on_the_way_in_is_made_good_by_doing_it_again(
    full: Engine, fresh: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "_PAGE", 2)
    paths, registered = export_all(full, tmp_path)
    left = 2

    def crash(_: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Crash

    with pytest.raises(Crash):
        months.bring_in(fresh, paths, registered, now_ms=LATER, tell=nothing, checkpoint=crash)
    assert 0 < standing(fresh) < standing(full)
    bring_in(fresh, paths, registered)
    assert picture(fresh) == picture(full)


# --- what does not belong


def test_ids_of_another_journal_are_not_taken_for_ones_own(full: Engine, target: MemoryTarget, tmp_path: Path) -> None:
    early = months.export(full, MONTHS[0], tmp_path / "early").path
    hear(full, message(30, [radio(40 * DAY)], received_ms=at("2026-03-30")), message(31, [], received_ms=LATER))
    project(full, target)
    _move_out(full, MONTHS[0], tmp_path)
    with full.begin() as conn:
        journal.restored(conn, LATER)
    with pytest.raises(
        ArchiveError, match=r"holds batches of 2026-03 by other ids; moved out to banua-2026-03-.*\.journal"
    ):
        bring_in(full, [early])
    assert _here(full, MONTHS[0]) == 0
    assert bring_in(full, list(tmp_path.glob("banua-2026-03*.journal")))["put_back"] == 3


def test_without_its_keys_nothing_is_believed(full: Engine, fresh: Engine, tmp_path: Path) -> None:
    paths, registered = export_all(full, tmp_path)
    with fresh.begin() as conn:
        register(conn, "p1", OTHER_SECRET)
    outcomes = bring_in(fresh, paths)
    assert {name: outcomes[name] for name in ("bad_signature", "unknown_key")} == {"bad_signature": 8, "unknown_key": 1}
    assert standing(fresh) == 0
    with pytest.raises(ArchiveError, match=r"no manifest of the files names it"):
        bring_in(fresh, paths, paths[0])
    assert registered


def test_a_registry_goes_into_an_empty_journal_alone(full: Engine, fresh: Engine) -> None:
    with db.reading(full) as conn:
        content = registry_file.dump(conn)
    with fresh.begin() as conn:
        register(conn, "p7")
    with fresh.begin() as conn, pytest.raises(ArchiveError, match=r"it knows probe p7, which the file does not"):
        registry_file.restore(conn, content)
    with db.reading(fresh) as conn:
        assert [probe.name for probe in registry.list_probes(conn)] == ["p7"]


def test_the_registry_restored_is_the_registry_and_holds_no_secret(full: Engine, fresh: Engine) -> None:
    with full.begin() as conn:
        prefix = registry.keys_of(conn, "p2")[0].public_key.hex()[:6]
        registry.revoke_key(conn, "p2", prefix, LATER)
        conn.execute(boots.update().where(boots.c.boot_id == A).values(standing="dropped"))
        content = registry_file.dump(conn)
    for _ in range(2):
        with fresh.begin() as conn:
            assert registry_file.restore(conn, content) == 2
            assert registry_file.dump(conn) == content
    assert OTHER_SECRET not in content
    assert OTHER_SECRET.hex().encode() not in content
    with db.reading(fresh) as conn:
        assert sorted(row.revoked_ms or 0 for row in conn.execute(select(keys))) == [0, LATER]


@pytest.mark.parametrize(
    "content", [b"{}", b"null", b"\xff", b'{"format": "x", "version": 1, "villages": [], "places": [], "probes": []}']
)
def test_what_is_no_registry_is_refused(fresh: Engine, content: bytes) -> None:
    with fresh.begin() as conn, pytest.raises(ArchiveError, match=r"^registry: [^\n]+$"):
        registry_file.restore(conn, content)


def test_a_batch_of_a_retired_key_is_believed_in_a_rebuild_as_it_was_when_it_came(
    engine: Engine, fresh: Engine, tmp_path: Path
) -> None:
    with engine.begin() as conn:
        register(conn)
    hear(engine, message(1, [radio(5)], received_ms=at("2026-03-10")))
    with engine.begin() as conn:
        registry.retire_key(conn, "p1", registry.keys_of(conn, "p1")[0].public_key.hex()[:8], at("2026-03-11"))
    paths, registered = export_all(engine, tmp_path)
    assert bring_in(fresh, paths, registered) == {"journalled": 1}


# --- the files


def test_files_are_private_and_nothing_half_done_stays(full: Engine, tmp_path: Path) -> None:
    export_all(full, tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert {path.suffix for path in files} == {".json", ".journal"}
    assert len(files) == 2 * 4 + 1


# --- the property


@st.composite
def _arrivals(draw: st.DrawFn) -> list[tuple[str, int, int, list[Row], int]]:
    """Batches of two probes and three boots each, in the order of their arrival, some much too late."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["p1", "p2"]),
                st.integers(0, 2),
                st.lists(st.integers(0, 500), min_size=0, max_size=3, unique=True),
                st.sampled_from(["anchored", "undated"]),
                st.integers(0, 89),
            ),
            min_size=1,
            max_size=10,
        )
    )
    made = []
    for seq, (probe, boot, boottimes, sort, day) in enumerate(sorted(drawn, key=lambda each: each[4]), 1):
        times = [minute * 60_000 + seq for minute in boottimes]
        rows = [radio(time, rsrp_dbm=-100 + seq) for time in times]
        if sort == "anchored" and times:
            rows.append(anchor(times[0], at("2026-01-01") + boot * 20 * DAY + times[0], 20))
        made.append((probe, boot, seq, rows, at("2026-03-01") + day * DAY + seq))
    return made


@pytest.fixture(scope="module")
def empty() -> Iterator[Callable[[], Engine]]:
    """Give migrated SQLite journals, as many as are asked for."""
    with tempfile.TemporaryDirectory() as name:
        made = db.open_engine(f"sqlite:///{name}/template.sqlite")
        db.migrate(made)
        made.dispose()
        engines: list[Engine] = []

        def another() -> Engine:
            path = Path(name) / f"{len(engines)}.sqlite"
            shutil.copy(Path(name) / "template.sqlite", path)
            engines.append(db.open_engine(f"sqlite:///{path}"))
            return engines[-1]

        yield another
        for engine in engines:
            engine.dispose()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=_arrivals(), order=st.randoms(use_true_random=False))
def test_any_batches_exported_and_imported_in_any_order_make_the_same_journal(
    empty: Callable[[], Engine], arrivals: list[Any], order: random.Random
) -> None:
    engine, rebuilt = empty(), empty()
    with engine.begin() as conn:
        register(conn)
        register(conn, "p2", OTHER_SECRET)
    for probe, boot, seq, rows, received_ms in arrivals:
        secret = {"secret": OTHER_SECRET} if probe == "p2" else {}
        hear(engine, message(seq, rows, probe=probe, boot=bytes([boot]) * 16, received_ms=received_ms, **secret))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        paths, registered = export_all(engine, Path(name))
        order.shuffle(paths)
        bring_in(rebuilt, paths[:1], Path(name) / archive.read_manifest(paths[0]).registry)
        bring_in(rebuilt, paths, registered)
    assert picture(rebuilt) == picture(engine)
    assert project(rebuilt) == project(engine)


def test_a_manifest_names_what_the_journal_holds(full: Engine, tmp_path: Path) -> None:
    exported = months.export(full, MONTHS[1], tmp_path)
    manifest = exported.manifest
    assert (manifest.batches, manifest.rows, manifest.quarantined) == (3, 7, 2)
    assert (manifest.first_received_ms, manifest.last_received_ms) == (at("2026-04-09T02:00"), at("2026-04-20"))
    assert exported.path.name == f"banua-2026-04-{manifest.sha256[:8]}.journal"
    assert months.export(full, MONTHS[1], tmp_path / "again").manifest == manifest
    assert msgspec.json.decode(exported.path.with_suffix(".json").read_bytes())["rows_sha256"] == manifest.rows_sha256
    first = next(archive.read(exported.path))
    assert isinstance(first, archive.Batch)
    assert digest(first.message) != bytes(32)
