"""The file of an outbox: SQLite with a log, opened and locked by its one writer, copied for whoever else wants to read.

A commit is on the disk when it returns (WAL, synchronous=FULL).
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from banua_probe.errors import OutboxError

PAGE_BYTES: Final = 1024
"""A commit writes whole pages: small ones spare the card."""
MAX_REPAGED_BYTES: Final = 4_000_000
"""A file up to this size that has other pages is rewritten at opening; a larger one keeps them."""
COPIES: Final = 10
"""How often a copy is tried while the file changes under it."""
_LOG_HEAD_BYTES: Final = 32

SCHEMA_SQL: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_rows (id INTEGER PRIMARY KEY, boot_id BLOB NOT NULL, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS rows_aside (id INTEGER PRIMARY KEY, boot_id BLOB NOT NULL, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream BLOB NOT NULL, seq INTEGER NOT NULL, hash8 BLOB NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, message BLOB NOT NULL,
    UNIQUE (stream, seq));
CREATE INDEX IF NOT EXISTS batches_by_state ON batches (state, id);
"""

WAITING: Final = "waiting"  # to be sent
EVICTABLE: Final = "evictable"  # settled: the collector has it
REFUSED: Final = "refused"  # the collector will not take it until a person acts: kept
SET_ASIDE: Final = "set_aside"  # never receipted though its neighbours were: kept


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether the file itself is wrong ("malformed", "not a database"), not the disk or the moment."""
    return type(error) is sqlite3.DatabaseError or "malformed" in str(error)


def lock(path: Path) -> int:
    """Return a descriptor that holds the outbox for this process alone: it has one writer."""
    descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutboxError(f"outbox {path}: in use by another process") from None
    return descriptor


def connect(path: Path) -> sqlite3.Connection:
    """Open the file at `path`, made with mode 0600 where there is none; transactions are the caller's."""
    path.touch(mode=0o600, exist_ok=True)
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def prepare(db: sqlite3.Connection) -> None:
    """Lock the file and have its commits durable."""
    db.execute("PRAGMA busy_timeout=5000")
    db.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the log is used: its index stays in memory, no file -shm
    db.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")


def repage(db: sqlite3.Connection) -> None:
    """Rewrite a small file whose pages are not ours; a power cut leaves it as it was or done (VACUUM is one commit)."""
    pages, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
    if size == PAGE_BYTES or pages * size > MAX_REPAGED_BYTES:
        return
    with contextlib.suppress(sqlite3.OperationalError):  # such as a full disk: the file serves as it is
        db.execute("PRAGMA journal_mode=DELETE")  # with a log the size is fixed
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        db.execute("VACUUM")
    db.execute("PRAGMA journal_mode=WAL")


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many batches stand in each state, and how many rows are open and set aside."""
    found = dict(db.execute("SELECT state, count(*) FROM batches GROUP BY state").fetchall())
    told = {state: int(found.get(state, 0)) for state in (WAITING, EVICTABLE, REFUSED, SET_ASIDE)}
    for table in ("open_rows", "rows_aside"):
        told[table] = int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 (a table of ours)
    return told


@contextlib.contextmanager
def copied(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a private copy of the outbox at `path`, whose daemon may run; OutboxError when there can be none.

    Never in the daemon's own process: to close a file drops all its process's locks on it (fcntl(2)).
    """
    with tempfile.TemporaryDirectory(prefix="banua-outbox-") as name:
        copy = Path(name) / path.name
        try:
            _copy(path, copy)
            with contextlib.closing(connect(copy)) as db:
                db.executescript(SCHEMA_SQL)  # an older version may have made it
                yield db
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(f"outbox {path}: {error}") from error


def _copy(path: Path, copy: Path) -> None:
    """Copy the database and its log as of one moment; sqlite3.Error when what can be had is not sound."""
    wrong = sqlite3.Error("it changes too fast to be copied; try again")
    for attempt in range(COPIES):
        time.sleep(attempt / 10)
        before = _version(path)
        for suffix in ("", "-wal", "-journal"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        if before != _version(path):
            continue
        try:
            with contextlib.closing(connect(copy)) as db:
                found = db.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.Error as error:
            wrong = error
        else:
            if found == "ok":
                return
            wrong = sqlite3.DatabaseError(found)
    raise wrong


def _version(path: Path) -> tuple[object, ...]:
    """Return what stays the same while a copy is sound.

    What a checkpoint writes into the database stands in the log too, until the log begins anew under another head.
    Without a log the file changes only together with its rollback journal.
    """
    try:
        with Path(f"{path}-wal").open("rb") as log:
            return _stamp(path), _stamp(Path(f"{path}-journal")), log.read(_LOG_HEAD_BYTES)
    except FileNotFoundError:
        return _stamp(path), _stamp(Path(f"{path}-journal")), b""


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
