"""The database: made private, migrated to what tables.py says, one writer at a time and readers never held up."""

import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from banua_collector import db
from banua_collector.config import Limits
from banua_collector.errors import DatabaseError
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.project.influx import InfluxProjection
from banua_collector.tables import journal, metadata, probes
from banua_collector.verify import Message
from banua_wire.birth import State, encode
from tests.collector.fleet import NOW_MS, radio
from tests.collector.memory import MemoryTarget
from tests.collector.speech import STREAM, A, anchor, message, register


def _definitions(engine: Engine) -> dict[str, list[str]]:
    """What the database itself says of every table: one entry a line of its definition, without order."""
    with db.reading(engine) as conn:
        found = conn.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    return {
        name: sorted(line.strip().rstrip(",").replace('"', "") for line in sql.splitlines())
        for name, sql in found
        if name != "alembic_version"
    }


def test_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        differences = [
            difference
            for difference in compare_metadata(context, metadata)
            # a partitioned table names its month in every unique constraint
            if not (db.is_postgresql(conn) and "batches_" in repr(difference[1].name))
        ]
        assert differences == []


def test_migrations_make_every_constraint_of_the_code(sqlite_engine: Engine, tmp_path: Path) -> None:
    direct = db.open_engine(f"sqlite:///{tmp_path}/direct.sqlite")
    metadata.create_all(direct)
    assert _definitions(sqlite_engine) == _definitions(direct)
    direct.dispose()


def test_migrating_again_changes_nothing_and_keeps_the_journal_id(engine: Engine) -> None:
    with db.reading(engine) as conn:
        before = conn.execute(select(journal)).all()
    db.migrate(engine)
    with db.reading(engine) as conn:
        after = conn.execute(select(journal)).all()
    assert after == before
    assert [len(row.journal_id) for row in after] == [8]


def test_two_processes_that_migrate_at_once_make_one_journal(tmp_path: Path) -> None:
    engines = [db.open_engine(f"sqlite:///{tmp_path}/both.sqlite") for _ in range(2)]
    threads = [threading.Thread(target=db.migrate, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.reading(engines[0]) as conn:
        assert len(conn.execute(select(journal)).all()) == 1
    for engine in engines:
        engine.dispose()


def test_a_database_of_a_newer_version_is_refused_in_one_line(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"not one that this version knows: .*9999") as caught:
        db.migrate(engine)
    assert "\n" not in str(caught.value)


def test_file_and_folder_are_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "banua.sqlite"
    engine = db.open_engine(f"sqlite:///{path}")
    db.migrate(engine)
    with engine.begin() as conn:
        conn.execute(insert(probes).values(name="a", simulated=False, added_ms=1))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {"banua.sqlite": 0o600, "banua.sqlite-wal": 0o600, "banua.sqlite-shm": 0o600}
    engine.dispose()


def test_every_connection_is_durable_and_keeps_references(sqlite_engine: Engine) -> None:
    with db.reading(sqlite_engine) as conn:
        said = {
            pragma: conn.execute(text(f"PRAGMA {pragma}")).scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert said == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    with pytest.raises(IntegrityError), sqlite_engine.begin() as conn:
        conn.execute(text("INSERT INTO keys VALUES (1, 99, x'00', 0, NULL, NULL)"))


def test_begin_takes_the_write_lock_before_anything_is_read(sqlite_engine: Engine) -> None:
    other = sqlite3.connect(str(sqlite_engine.url.database), timeout=0, isolation_level=None)
    with sqlite_engine.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_writer_does_not_hold_up_a_reader(engine: Engine) -> None:
    with engine.begin() as writer:
        writer.execute(insert(probes).values(name="a", simulated=False, added_ms=1))
        with db.reading(engine) as reader:
            assert reader.execute(select(probes)).all() == []
    with db.reading(engine) as reader:
        assert len(reader.execute(select(probes)).all()) == 1


def test_a_reader_cannot_write_and_its_connection_can_later(sqlite_engine: Engine) -> None:
    with db.reading(sqlite_engine) as conn, pytest.raises(OperationalError, match="readonly"):
        conn.execute(insert(probes).values(name="a", simulated=False, added_ms=1))
    with sqlite_engine.begin() as conn:
        conn.execute(insert(probes).values(name="a", simulated=False, added_ms=1))


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://localhost/banua", "mysql://a@b/c", "banua.sqlite"]
)
def test_only_a_file_or_a_server_with_its_user_is_taken(url: str) -> None:
    with pytest.raises(DatabaseError, match="is not sqlite:///FILE or postgresql://USER@HOST"):
        db.open_engine(url)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match=r"file/banua.sqlite: cannot be opened: File exists"):
        db.open_engine(f"sqlite:///{tmp_path}/file/banua.sqlite")


_LARGE = ("seen", "batches", "anchors", "boots", "written", "todo", "streams", "events")


@pytest.mark.parametrize("count", [1, 3])
def test_no_statement_of_the_daily_work_reads_a_whole_table(sqlite_engine: Engine, count: int) -> None:
    """SQLite's own plan of every statement that a few batches and births cause, from MQTT to InfluxDB."""
    with sqlite_engine.begin() as conn:
        for number in range(1, count + 1):
            register(conn, f"p{number}", bytes([number]) * 32)
    told: dict[str, Any] = {}

    def note(_conn: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        told.setdefault(sql, parameters[0] if many else parameters)

    ingest = Ingest(sqlite_engine, Metrics(sqlite_engine), Limits(), lambda: NOW_MS, lambda _: None)
    projection = InfluxProjection(sqlite_engine, MemoryTarget(), lambda: NOW_MS)
    event.listen(sqlite_engine, "before_cursor_execute", note)
    for seq in (1, 2, 3):
        rows = [anchor(100_000 * seq, NOW_MS + 100_000 * seq), radio(100_000 * seq + 5)]
        group = [
            (message(seq, rows, probe=f"p{number}", secret=bytes([number]) * 32), False)
            for number in range(1, count + 1)
        ]
        birth = encode(State(online=True, boot_id=A, stream=STREAM, ask=seq, next_seq=1, waiting=0, version="1"))
        group += [(Message(f"banua/v1/p{number}/state", birth, NOW_MS), False) for number in range(1, count + 1)]
        ingest.take(group)
        projection.project_plain()
    ingest.take([(message(4, [anchor(1, NOW_MS, 1)], secret=bytes([1]) * 32), False)])
    while projection.step() is not None:
        pass
    event.remove(sqlite_engine, "before_cursor_execute", note)
    assert len(told) > 30
    scans = []
    with sqlite_engine.connect() as conn:
        for sql, parameters in told.items():
            if sql.startswith(("SELECT", "UPDATE", "DELETE")):
                plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
                scans += [(row[3], sql) for row in plan if row[3].startswith(tuple(f"SCAN {name}" for name in _LARGE))]
    assert scans == []
