"""Opens the database, SQLite or PostgreSQL, and brings it to this version's schema: all that differs between the two.

What is committed is on the disk: SQLite in WAL mode with synchronous=FULL, PostgreSQL with synchronous_commit on.
Whoever writes for a probe holds that probe's lock first (`lock_probes`): on PostgreSQL its row, on SQLite the one write
lock, which ``engine.begin()`` takes at once (BEGIN IMMEDIATE). A reader says that it is one, ``with reading(engine) as
conn``, and then needs no lock: it sees one committed state and holds nobody up.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    false,
    insert,
    make_url,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from banua_collector.clock import month_span, wall_ms
from banua_collector.errors import DatabaseError
from banua_collector.tables import journal, probes

JOURNAL_ID_BYTES: Final = 8
BUSY_TIMEOUT_MS: Final = 10_000
"""How long a writer of SQLite waits for another one."""
POSTGRESQL: Final = "postgresql"
_SQLITE: Final = "sqlite"
_READS: Final = "banua_reads"
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
)
_SERVER: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "application_name": "banua-collector",
    "options": "-c synchronous_commit=on -c timezone=UTC",
}
"""How PostgreSQL is spoken to: a server that is gone is noticed, a commit is durable whatever the role's default."""
_ALONE: Final = 6_301_0001
"""The advisory lock of whoever migrates."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


# --- open ------------------------------------------------------------------------------------------------------------


def open_engine(url: str, password: str | None = None) -> Engine:
    """Return the engine for ``sqlite:///FILE`` or ``postgresql://USER@HOST[:PORT]/NAME``.

    An SQLite file is made with mode 0600, a missing folder with 0700. DatabaseError when `url` is neither.
    """
    parsed = check_url(url)
    if parsed.get_backend_name() == POSTGRESQL:
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg", password=password), connect_args=_SERVER, pool_pre_ping=True
        )
        event.listen(engine, "begin", _on_begin_postgresql)
        return engine
    _make_file(Path(str(parsed.database)))
    engine = create_engine(parsed)
    event.listen(engine, "connect", _on_connect_sqlite)
    event.listen(engine, "begin", _on_begin_sqlite)
    return engine


def check_url(url: str) -> URL:
    """Return `url` in its parts; DatabaseError when it is no database that can be used, or holds a password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is not None and parsed.drivername == _SQLITE and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed is not None and parsed.drivername == POSTGRESQL and parsed.database and parsed.username:
        if parsed.password is not None:
            raise DatabaseError("the address holds a password; put it into a file and name it in password_file")
        return parsed
    raise DatabaseError(f"{url!r:.200} is not sqlite:///FILE or postgresql://USER@HOST[:PORT]/NAME")


def reading(engine: Engine) -> Connection:
    """Return a connection that reads one consistent state without a lock; writing through it is refused."""
    return engine.connect().execution_options(**{_READS: True})


def migrate(engine: Engine, now_ms: Callable[[], int] = wall_ms) -> None:
    """Bring the schema to this version in one transaction, and give a new journal its id."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as conn:
        if is_postgresql(conn):
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ALONE})
        config.attributes["connection"] = conn
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DatabaseError(f"the database's schema is not one that this version knows: {error}") from None
        if conn.execute(select(journal.c.id)).first() is None:
            conn.execute(insert(journal).values(journal_id=new_journal_id(), minted_ms=now_ms()))


def new_journal_id() -> bytes:
    """Return a random name for a journal: by another one than before, a probe notices a restored journal."""
    return secrets.token_bytes(JOURNAL_ID_BYTES)


# --- what the two say differently ------------------------------------------------------------------------------------


def is_postgresql(conn: Connection) -> bool:
    """Say whether `conn` speaks to PostgreSQL."""
    return conn.dialect.name == POSTGRESQL


def is_server(engine: Engine) -> bool:
    """Say whether the database is a PostgreSQL, and not a file."""
    return engine.dialect.name == POSTGRESQL


def size_bytes(conn: Connection) -> int:
    """Return how large the database is."""
    if is_postgresql(conn):
        return int(conn.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    pages, size = (conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def insert_or(conn: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can say ON CONFLICT."""
    return postgresql.insert(table) if is_postgresql(conn) else sqlite.insert(table)


def among(wanted: Collection[tuple[Any, ...]], *columns: Column[Any]) -> ColumnElement[bool]:
    """Return what a row of one table meets whose `columns` are one of the `wanted` tuples, each looked up by an index.

    PostgreSQL does so with a plain IN. SQLite would read the whole table, or all that share the first column; it looks
    them up where the tuples are joined to the table.
    """
    return _Among(tuple_(*columns).in_(list(wanted))) if wanted else false()


class _Among(FunctionElement[bool]):
    inherit_cache = True


@compiles(_Among)
def _in(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(_Among, _SQLITE)
def _in_joined(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    (is_in,) = element.clauses
    columns = list(is_in.left.clauses)
    tuples = compiler.process(is_in, **options).rpartition(" IN ")[2]
    table = columns[0].table.name  # of a table itself: an alias would name none that can be joined
    alike = " AND ".join(f"k.{column.name} = v.column{n}" for n, column in enumerate(columns, start=1))
    return f"{table}.rowid IN (SELECT k.rowid FROM {tuples} AS v JOIN {table} AS k ON {alike})"  # noqa: S608 (names of our tables)


def lock_probes(conn: Connection, probe_ids: Iterable[int]) -> None:
    """Hold the probes' locks until the transaction ends, taken in one order: nobody else writes for them meanwhile."""
    if is_postgresql(conn):
        wanted = select(probes.c.id).where(probes.c.id.in_(sorted(set(probe_ids)))).order_by(probes.c.id)
        conn.execute(wanted.with_for_update(key_share=True)).all()


class Claim:
    """Probes whose work at one projection a process has taken: on PostgreSQL locks that die with their connection.

    SQLite serves one collector, so there is nobody to keep out.
    """

    def __init__(self, engine: Engine, projection: str) -> None:
        self._engine, self._space = engine, _claim_space(projection)
        self._conn: Connection | None = None

    def take(self, probe_ids: Sequence[int]) -> list[int]:
        """Take what no other process has, without waiting, and return it."""
        if not is_server(self._engine):
            return list(probe_ids)
        if self._conn is None:
            self._conn = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        found = self._conn.execute(_TAKE, {"space": self._space, "probes": list(probe_ids)})
        return [row.probe for row in found if row.taken]

    def __enter__(self) -> Self:
        """Begin with nothing taken."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back; a connection that is gone has done so already."""
        if self._conn is None:
            return
        try:
            self._conn.execute(text("SELECT pg_advisory_unlock_all()"))
        except SQLAlchemyError:
            self._conn.invalidate()
        self._conn.close()


_TAKE: Final = text(
    "SELECT probe, pg_try_advisory_lock(:space, probe) AS taken FROM unnest(CAST(:probes AS integer[])) AS probe"
)


def _claim_space(projection: str) -> int:
    return int.from_bytes(projection.encode()[:3], "big")


def ensure_month(engine: Engine, month: str) -> None:
    """See to it that batches received in `month` (like 2026-11, UTC) have a partition; on SQLite there are none."""
    if not is_server(engine):
        return
    name, (first, end) = partition_of(month), month_span(month)
    with engine.begin() as conn:
        if conn.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is not None:
            return
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ALONE})
        if conn.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is not None:
            return  # made by another collector meanwhile
        # made apart and then attached: PARTITION OF would wait for every reader of `batches`, and hold up all behind it
        alike = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES"
        conn.execute(text(f"CREATE TABLE {name} (LIKE batches {alike})"))
        conn.execute(text(f"ALTER TABLE batches ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})"))


def partition_of(month: str) -> str:
    """Return the name of the partition of `batches` for a month like 2026-11."""
    return f"batches_{month.replace('-', '_')}"


# --- connections -----------------------------------------------------------------------------------------------------


def _make_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be opened: {error.strerror}") from None


def _on_connect_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _on_begin_sqlite(conn: Connection) -> None:
    reads = conn.get_execution_options().get(_READS, False)
    conn.exec_driver_sql(f"PRAGMA query_only = {'ON' if reads else 'OFF'}")
    conn.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _on_begin_postgresql(conn: Connection) -> None:
    if conn.get_execution_options().get(_READS, False):
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
