"""Opens the database and brings it to this version's schema.

SQLite in WAL mode with synchronous=FULL: what is committed is on the disk. ``engine.begin()`` takes the write lock at
once (BEGIN IMMEDIATE), so a writer waits for its turn before it has read anything and never fails half way. A reader
says that it is one, ``with reading(engine) as conn``, and then needs no lock: it sees one committed state and holds
nobody up.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from banua_collector.clock import wall_ms
from banua_collector.errors import DatabaseError
from banua_collector.tables import journal

JOURNAL_ID_BYTES: Final = 8
BUSY_TIMEOUT_MS: Final = 10_000
"""How long a writer waits for another one."""
_READS: Final = "banua_reads"
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
)
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def open_engine(url: str) -> Engine:
    """Return the engine for ``sqlite:///FILE``; the file is made with mode 0600, a missing folder with 0700."""
    _make_file(database_file(url))
    engine = create_engine(url)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def database_file(url: str) -> Path:
    """Return the file that `url` names; DatabaseError when it is not ``sqlite:///FILE``."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise DatabaseError(f"{url!r:.200} is not sqlite:///FILE")
    return Path(str(parsed.database))


def reading(engine: Engine) -> Connection:
    """Return a connection that reads one consistent state without the write lock; writing through it is refused."""
    return engine.connect().execution_options(**{_READS: True})


def migrate(engine: Engine, now_ms: Callable[[], int] = wall_ms) -> None:
    """Bring the schema to this version in one transaction, and give a new journal its id."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as conn:
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


def _on_connect(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _on_begin(conn: Connection) -> None:
    reads = conn.get_execution_options().get(_READS, False)
    conn.exec_driver_sql(f"PRAGMA query_only = {'ON' if reads else 'OFF'}")
    conn.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
