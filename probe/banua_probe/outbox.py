"""Rows and sealed batches on disk until the collector has them: nothing sealed is dropped without saying so.

Rows wait in memory until `commit`, in the open table until `seal`, which turns them into immutable signed batches of
the current stream in the same transaction. What a receipt settles becomes evictable; the oldest of that goes first when
space is needed. A batch that has to go unsettled is declared in a `lost` row. When the disk fails, OutboxError says so
and the daemon holds: rows wait in memory, nothing is offered for a while. When the file proves to be damaged it is
moved aside whole and a new one begun, at opening or in the middle of a run. Others read a copy (`outbox_file.copied`).
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from banua_probe.errors import OutboxError
from banua_probe.outbox_file import (
    EVICTABLE,
    REFUSED,
    SCHEMA_SQL,
    WAITING,
    connect,
    is_damage,
    lock,
    prepare,
    repage,
)
from banua_wire import batch
from banua_wire.envelope import STREAM_BYTES, Envelope, unpack
from banua_wire.errors import WireError
from banua_wire.fields import MAX_TEXT, SCHEMA, Value
from banua_wire.receipt import Receipt
from banua_wire.rows import Row, checked

MAX_BATCH_ROWS: Final = 240
"""Most rows sealed into one batch."""
MAX_MEMORY_ROWS: Final = 5000
"""Most rows held in memory while the disk refuses them; the oldest go first, counted in an event."""
HOLD_MS: Final = 30_000
"""How long nothing is offered for sending after the file could not be read."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A sealed batch: its row in the outbox, and the names a receipt knows it by."""

    id: int
    stream: bytes
    seq: int
    hash8: bytes
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who seals: the probe's name and secret key, the boot that runs, and its CLOCK_BOOTTIME in ms."""

    probe: str
    secret: bytes
    boot_id: bytes
    boottime_ms: Callable[[], int]


class Outbox:
    """The probe's outbox; see the module. All methods belong to one thread."""

    def __init__(self, path: Path, owner: Owner, *, max_bytes: int, checkpoint: Callable[[str], None]) -> None:
        """Open or create the outbox at `path`, a damaged one moved aside; `checkpoint` marks crash points for tests."""
        self._path, self._owner, self._max_bytes, self._checkpoint = path, owner, max_bytes, checkpoint
        self._memory: list[Row] = []
        self._changes: dict[int, tuple[str, int]] = {}
        self._events = 0
        self._last_retry = 0
        self.stream, self._ask, self._forks, self._newest_id = b"", 0, 0, 0
        self._bytes_used, self._hold_until = 0, 0
        self._read_failed = self._is_gone = False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock(path)
        except OSError as error:
            raise OutboxError(f"outbox {path}: {error}") from error
        try:
            self._begin()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise OutboxError(f"outbox {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        os.close(self._lock)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._db = self._open()
        try:
            self._load()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> sqlite3.Connection:
        db = connect(self._path)
        try:
            prepare(db)
            if db.execute("PRAGMA quick_check").fetchone()[0] == "ok":
                repage(db)
                db.executescript(SCHEMA_SQL)
                return db
        except sqlite3.Error as error:
            if not is_damage(error):
                db.close()
                raise
        db.close()
        self._move_aside()
        db = connect(self._path)
        prepare(db)
        db.executescript(SCHEMA_SQL)
        return db

    def _move_aside(self) -> None:
        aside = next(name for n in range(1, 1000) if not (name := self._path.with_suffix(f".damaged-{n}")).exists())
        for suffix in ("", "-wal", "-shm"):
            source = Path(f"{self._path}{suffix}")
            if source.exists():
                source.rename(f"{aside}{suffix}")
        self.note("outbox_damaged", aside.name)

    def _mend(self, error: sqlite3.Error) -> None:
        """Begin anew where `error` shows that the file is damaged; anything else may pass."""
        if not self._is_gone:
            if not is_damage(error):
                return
            self._is_gone = True  # until a new one stands, each use tries again
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._changes.clear()
            self._move_aside()
        self._begin()
        self._is_gone = False

    def _load(self) -> None:
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        if "stream" not in meta:
            meta = self._new_meta()
            with self._transaction():
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                self._db.execute("INSERT INTO sqlite_sequence VALUES ('batches', ?)", (self._newest_id,))
        self._sort_by_dictionary()
        self.stream = meta["stream"]
        self.next_seq: int = meta["next_seq"]
        self._ask = meta["ask"]
        self._previous: bytes = meta["previous"]
        self._forks = meta["forks"]
        self.newest_before_start: int = self._db.execute("SELECT coalesce(max(id), 0) FROM batches").fetchone()[0]
        self._newest_id = max(self._newest_id, self.newest_before_start)
        self._count_all()

    def _new_meta(self) -> dict[str, Any]:
        """Return what a new file starts with: it goes on from one that was damaged while we ran.

        So do the ids of batches: who remembers one of the damaged file must not mean one of the new.
        """
        return {
            "stream": secrets.token_bytes(STREAM_BYTES),
            "next_seq": 1,
            "ask": self._ask,
            "previous": self.stream,
            "forks": self._forks + bool(self.stream),
        }

    def _sort_by_dictionary(self) -> None:
        """Set aside open rows that this version's dictionary does not hold, and open again those it does."""
        with self._transaction():
            self._move_rows("rows_aside", "open_rows", known=True)
            aside = self._move_rows("open_rows", "rows_aside", known=False)
            if aside:
                detail = f"{aside} open rows that the dictionary of this version does not hold"
                self._insert_open([self._event("rows_set_aside", detail)])

    def _move_rows(self, source: str, target: str, *, known: bool) -> int:
        rows = self._db.execute(f"SELECT id, row FROM {source}")  # noqa: S608 (a table of ours, thrice)
        ids = [(row_id,) for row_id, packed in rows if _is_known(packed) == known]
        copy = f"INSERT INTO {target} (boot_id, row) SELECT boot_id, row FROM {source} WHERE id = ?"  # noqa: S608
        self._db.executemany(copy, ids)
        self._db.executemany(f"DELETE FROM {source} WHERE id = ?", ids)  # noqa: S608
        return len(ids)

    def _count_all(self) -> None:
        self.open_rows = self._number("SELECT count(*) FROM open_rows")
        self.waiting = self._number("SELECT count(*) FROM batches WHERE state = 'waiting'")

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # --- rows in ------------------------------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Take a row of this boot into memory; WireError when the dictionary does not allow it."""
        self._memory.append(checked(row))
        if len(self._memory) > MAX_MEMORY_ROWS:
            del self._memory[: MAX_MEMORY_ROWS // 10]
            self.note("rows_dropped_from_memory", f"{MAX_MEMORY_ROWS // 10} oldest rows: the disk refuses writes")

    def note(self, name: str, detail: str) -> None:
        """Add an `event` row that happened now."""
        self.add(self._event(name, detail))

    def _event(self, name: str, detail: str) -> Row:
        self._events += 1
        return Row("event", self._owner.boottime_ms(), {"name": name, "n": self._events, "detail": detail or "-"})

    @property
    def rows_held(self) -> int:
        """How many rows wait to be sealed."""
        return self.open_rows + len(self._memory)

    def commit(self) -> None:
        """Write rows in memory and what receipts changed, in one go; OutboxError: nothing was lost, try again."""
        if not self._memory and not self._changes:
            return
        with self._errors(), self._transaction():
            self._insert_open(self._memory)
            self._write_changes()
        self._committed()

    def seal(self, anchor: Row | None = None) -> int:
        """Seal every row there is, boot by boot, adding `anchor` to this boot's; return the number of batches."""
        if anchor is None and not self._memory and not self.open_rows:
            return 0
        sealed = 0
        with self._sealing():
            self._insert_open(self._memory)
            self._insert_open([] if anchor is None else [checked(anchor)])  # not kept when the disk refuses
            self._write_changes()
            for boot, rows in self._rows_by_boot().items():
                for chunk in _chunks(rows):
                    sealed += self._insert_sealed(boot, chunk)
            self._checkpoint("mid_seal")
            self._db.execute("DELETE FROM open_rows")
            self._write_meta()
        self._committed()
        self.open_rows = 0
        self.waiting += sealed
        self._make_room()
        return sealed

    def _insert_open(self, rows: Iterable[Row]) -> None:
        packed = ((self._owner.boot_id, _pack((row.kind, row.boottime_ms, row.values))) for row in rows)
        self._db.executemany("INSERT INTO open_rows (boot_id, row) VALUES (?, ?)", packed)

    def _write_changes(self) -> None:
        changes = [(state, tries, batch_id) for batch_id, (state, tries) in self._changes.items()]
        self._db.executemany("UPDATE batches SET state = ?, tries = ? WHERE id = ?", changes)

    def _write_meta(self) -> None:
        meta = {
            "stream": self.stream,
            "next_seq": self.next_seq,
            "ask": self._ask,
            "previous": self._previous,
            "forks": self._forks,
        }
        self._db.executemany(
            "UPDATE meta SET value = ? WHERE name = ?", [(value, name) for name, value in meta.items()]
        )

    def _committed(self) -> None:
        self.open_rows += len(self._memory)
        self._memory.clear()
        self._changes.clear()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            try:
                self._mend(error)
            except (OSError, sqlite3.Error) as another:
                raise OutboxError(f"outbox {self._path}: {error}; no new one: {another}") from another
            raise OutboxError(f"outbox {self._path}: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Translate errors as for a write, and hold; the log has each of them, an event the first of a run."""
        try:
            with self._errors():
                yield
        except OutboxError as error:
            self._hold_until = self._owner.boottime_ms() + HOLD_MS
            if not self._read_failed:
                self._read_failed = True
                self.note("outbox_read_failed", str(error.__cause__)[:MAX_TEXT])
            raise

    @contextlib.contextmanager
    def _sealing(self) -> Iterator[None]:
        """Open a transaction that takes back the numbers it gave out when it fails."""
        with self._errors():
            stored = (self.next_seq, self._previous)
            try:
                with self._transaction():
                    yield
            except BaseException:
                self.next_seq, self._previous = stored
                raise

    # --- sealing ------------------------------------------------------------------------------------------------------

    def _rows_by_boot(self) -> dict[bytes, list[Row]]:
        boots: dict[bytes, dict[Any, Row]] = {}
        for boot, packed in self._db.execute("SELECT boot_id, row FROM open_rows ORDER BY id"):
            row = Row(*_unpack(packed))
            boots.setdefault(boot, {}).setdefault((row.kind, row.key, row.boottime_ms), row)
        return {boot: list(rows.values()) for boot, rows in boots.items()}

    def _insert_sealed(self, boot_id: bytes, rows: list[Row]) -> int:
        """Seal `rows` under the next seq, or halves of them where one message cannot hold them all."""
        forked = [self._fork_event(rows[-1].boottime_ms)] if self.next_seq == 1 and self._previous else []
        envelope = Envelope(self._owner.probe, self.stream, self.next_seq, boot_id, SCHEMA)
        try:
            message = batch.seal(self._owner.secret, envelope, [*forked, *rows])
        except WireError:
            if len(rows) == 1:
                raise
            middle = len(rows) // 2
            return self._insert_sealed(boot_id, rows[:middle]) + self._insert_sealed(boot_id, rows[middle:])
        inserted = self._db.execute(
            "INSERT INTO batches (stream, seq, hash8, state, message) VALUES (?, ?, ?, 'waiting', ?)",
            (self.stream, self.next_seq, batch.digest(message)[: batch.HASH8_BYTES], message),
        )
        self._newest_id = inserted.lastrowid or self._newest_id
        self.next_seq += 1
        self._previous = b""
        return 1

    def _fork_event(self, boottime_ms: int) -> Row:
        values: dict[str, Value] = {"name": "previous_stream", "n": self._forks, "detail": self._previous.hex()}
        return Row("event", boottime_ms, values)

    def _new_stream(self) -> None:
        self._previous, self.stream, self.next_seq = self.stream, secrets.token_bytes(STREAM_BYTES), 1
        self._forks += 1

    def fork(self) -> None:
        """Begin a new stream: the collector knows more of this one than we do (a restored outbox, or a clone of it)."""
        self._new_stream()
        with self._errors(), self._transaction():
            self._write_meta()

    def reseal(self, ref: Ref) -> None:
        """Seal the rows of `ref` again under another stream, since another batch holds its seq at the collector.

        All its rows, a `previous_stream` of an earlier fork too: its `n` says which fork that was, wherever it stands.
        """
        message = self.message(ref)
        if message is None:
            return
        try:
            boot_id, rows = unpack(message)[0].boot_id, batch.open_rows(message)
        except WireError:  # a newer version sealed it, and can seal it again
            self.mark(ref, REFUSED)
            return
        was_waiting = self._state(ref.id) == WAITING
        if ref.stream == self.stream:
            self._new_stream()
        with self._sealing():
            self._db.execute("DELETE FROM batches WHERE id = ?", (ref.id,))
            sealed = self._insert_sealed(boot_id, rows)
            self._write_meta()
        self._changes.pop(ref.id, None)
        self.waiting += sealed - was_waiting

    # --- batches out, receipts in -------------------------------------------------------------------------------------

    def next_ask(self) -> int:
        """Return the next connection counter; durable before it is used."""
        self._ask += 1
        with self._errors(), self._transaction():
            self._write_meta()
        return self._ask

    def oldest(self, count: int, *, without: Iterable[int]) -> list[Ref]:
        """Return up to `count` waiting batches, oldest first, those in `without` (ids) left out."""
        return self._pick(count, set(without), "ASC")

    def newest(self, count: int, *, without: Iterable[int]) -> list[Ref]:
        """Return up to `count` waiting batches, newest first, those in `without` (ids) left out."""
        return self._pick(count, set(without), "DESC")

    def _pick(self, count: int, without: set[int], order: str) -> list[Ref]:
        if self._owner.boottime_ms() < self._hold_until:
            return []
        settled = {batch_id for batch_id, (state, _) in self._changes.items() if state != WAITING}
        query = (
            "SELECT id, stream, seq, hash8, tries FROM batches"  # noqa: S608 (order is one of two literals)
            f" WHERE state = 'waiting' ORDER BY id {order}"
        )
        picked: list[Ref] = []
        if count > 0:
            with self._reading():
                for columns in self._db.execute(query):
                    if columns[0] not in without and columns[0] not in settled:
                        picked.append(self._ref(columns))
                    if len(picked) == count:
                        break
        return picked

    def message(self, ref: Ref) -> bytes | None:
        """Return the bytes of a batch, None when it has been evicted."""
        found = self._select("SELECT message FROM batches WHERE id = ?", ref.id)
        return found[0][0] if found else None

    def _select(self, query: str, *values: bytes | int) -> list[Any]:
        with self._reading():
            return self._db.execute(query, values).fetchall()

    def find(self, stream: bytes, seq: int, hash8: bytes) -> Ref | None:
        """Return the batch that a receipt's entry means: seq *and* hash8 must match."""
        return next(iter(self._refs("stream = ? AND seq = ? AND hash8 = ?", stream, seq, hash8)), None)

    def _refs(self, condition: str, *values: bytes | int) -> list[Ref]:
        query = f"SELECT id, stream, seq, hash8, tries FROM batches WHERE {condition}"  # noqa: S608 (a literal of ours)
        return [self._ref(columns) for columns in self._select(query, *values)]

    def _ref(self, columns: tuple[int, bytes, int, bytes, int]) -> Ref:
        """Return the batch as it stands, changes that are not yet written included."""
        _, tries = self._changes.get(columns[0], ("", columns[4]))
        return Ref(*columns[:4], tries)

    def mark(self, ref: Ref, state: str, *, tries: int | None = None) -> None:
        """Note a new state of `ref`, written with the next commit; what cannot be read now keeps its old one."""
        before = ""
        with contextlib.suppress(OutboxError):  # it goes out again, and is answered again
            before = self._state(ref.id)
        if not before:
            return  # evicted meanwhile
        self._changes[ref.id] = (state, ref.tries if tries is None else tries)
        self.waiting += (state == WAITING) - (before == WAITING)

    def _state(self, batch_id: int) -> str:
        if batch_id in self._changes:
            return self._changes[batch_id][0]
        found = self._select("SELECT state FROM batches WHERE id = ?", batch_id)
        return str(found[0][0]) if found else ""

    def retry_refused(self, count: int) -> list[Ref]:
        """Make up to `count` refused batches unsent again, each in its turn: a person may have put it right since."""
        self.commit()
        refused = self._refs("state = 'refused' ORDER BY id <= ?, id LIMIT ?", self._last_retry, count)
        for ref in refused:
            self.mark(ref, WAITING)
            self._last_retry = ref.id
        return refused

    def unsettle(self, receipt: Receipt) -> int:
        """Make unsent again what a restored collector forgot, by its answer to our newest ask; return how many."""
        self.commit()
        mine = self._refs("state = 'evictable' AND stream = ?", receipt.stream)
        forgotten = [ref for ref in mine if receipt.denies(ref.seq)]
        if forgotten or receipt.journal_id != self._journal_id():
            forgotten += self._refs("state = 'evictable' AND stream != ?", receipt.stream)
        for ref in forgotten:
            self.mark(ref, WAITING)
        self.commit()
        if receipt.journal_id != self._journal_id():  # last: after a crash before this, all of it is done again
            self._remember_journal(receipt.journal_id)
        return len(forgotten)

    def _journal_id(self) -> bytes:
        found = self._select("SELECT value FROM meta WHERE name = 'journal_id'")
        return bytes(found[0][0]) if found else b""

    def _remember_journal(self, journal_id: bytes) -> None:
        with self._errors(), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('journal_id', ?)", (journal_id,))

    # --- space --------------------------------------------------------------------------------------------------------

    @property
    def bytes_used(self) -> int:
        """Bytes of the database in use; those last known while it cannot be read."""
        with contextlib.suppress(OutboxError):
            self._bytes_used = self._measure()
        return self._bytes_used

    def _measure(self) -> int:
        with self._reading():
            pages, free, size = map(self._number, ("PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size"))
        return (pages - free) * size

    def _make_room(self) -> None:
        while self._measure() > self._max_bytes:
            victims = self._select(
                "SELECT id, stream, seq, state, message FROM batches ORDER BY state != 'evictable', id LIMIT 16"
            )
            if not victims:
                return
            evictable = [victim for victim in victims if victim[3] == EVICTABLE] or victims[:1]
            with self._errors(), self._transaction():
                self._db.executemany("DELETE FROM batches WHERE id = ?", [(victim[0],) for victim in evictable])
                self._declare_lost([victim for victim in evictable if victim[3] != EVICTABLE])
            for victim in evictable:
                self._changes.pop(victim[0], None)
            with self._reading():
                self._count_all()

    def _declare_lost(self, victims: list[tuple[int, bytes, int, str, bytes]]) -> None:
        now = self._owner.boottime_ms()
        self._insert_open(
            Row("lost", now, {"stream": stream.hex(), "from_seq": seq, "to_seq": seq, "reason": "evicted"})
            for _, stream, seq, _, _ in victims
        )
        for *_, message in victims:  # what a lost batch itself declared is declared again
            self._insert_open(Row("lost", now, row.values) for row in _rows_of(message) if row.kind == "lost")

    def states(self) -> dict[str, int]:
        """Return how many batches stand in each state."""
        counts = dict(self._select("SELECT state, count(*) FROM batches GROUP BY state"))
        return {str(state): int(count) for state, count in counts.items()}


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, int, dict[str, Any]]).decode


def _is_known(packed: bytes) -> bool:
    """Say whether the dictionary of this version holds an open row: another version may have written it."""
    try:
        checked(Row(*_unpack(packed)))
    except (WireError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _rows_of(message: bytes) -> list[Row]:
    """Return the rows of a batch, none if a newer version sealed it: then it is lost as a whole."""
    try:
        return batch.open_rows(message)
    except WireError:
        return []


def _chunks(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), MAX_BATCH_ROWS):
        yield rows[start : start + MAX_BATCH_ROWS]
