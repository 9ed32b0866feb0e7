"""Months of the journal out to files and back in: export, remove, import, retain.

Out: the file is written, read back and verified; then the journal notes that its batches go (`archives`), and only then
they go. In: every batch goes through the same judgement and the same commit as when it came, with the time it came at.
A crash anywhere is made good by doing it again. What a batch told stays when it goes: its seq, its anchors, its boot,
its events, what was written of it; so it goes back in under its own id.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Select, bindparam, delete, func, select, text
from sqlalchemy.exc import OperationalError

from banua_collector import archive, journal, registry_file
from banua_collector.archive import Batch, Kept, Manifest
from banua_collector.clock import iso, month_of, month_span
from banua_collector.db import ensure_month, insert_or, is_postgresql, is_server, partition_of, reading
from banua_collector.errors import ArchiveError
from banua_collector.speakers import Speakers
from banua_collector.tables import archives, batches, probes, quarantine, seen, streams, todo
from banua_collector.verify import Message, Verified
from banua_wire.batch import digest
from banua_wire.envelope import unpack
from banua_wire.topics import topic

LEAST_DAYS: Final = 90
"""How long a month must have been over before it may be removed."""
_DAY_MS: Final = 86_400_000
_PAGE: Final = 500
"""Batches read, deleted or journalled at once."""
_TELL_EVERY: Final = 20_000
"""Batches between two lines of progress."""
_T = TypeVar("_T")

Tell = Callable[[str], None]
Checkpoint = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, and whether it was then removed."""

    path: Path
    manifest: Manifest
    removed: bool


# --- out -------------------------------------------------------------------------------------------------------------


def export(engine: Engine, month: str, folder: Path) -> Exported:
    """Write a month's batches and quarantine, as received, with the registry; ArchiveError when there are none."""
    with reading(engine) as conn:
        span = month_span(month)
        if conn.execute(_of_month(batches, span).limit(1)).first() is None:
            raise ArchiveError(f"no batch received in {month} is in the journal{_where(conn, month)}")
        records = _records(conn, span)
        path, manifest = archive.write(folder, month, journal.journal_id_of(conn), records, registry_file.dump(conn))
    return Exported(path, manifest, removed=False)


def export_and_remove(
    engine: Engine, month: str, folder: Path, *, now_ms: int, checkpoint: Checkpoint
) -> list[Exported]:
    """Export a month that has been over for LEAST_DAYS and remove its batches; return the files that hold them.

    Normally one: a removal that was cut short is finished first, by the file that it had begun with.
    """
    _check_may_go(engine, month, now_ms)
    done = [_remove(engine, path, now_ms, checkpoint) for path in _begun(engine, month, folder)]
    with reading(engine) as conn:
        left = conn.execute(_of_month(batches, month_span(month)).limit(1)).first() is not None
    if left or not done:
        exported = export(engine, month, folder)
        checkpoint("after_export")
        done.append(_remove(engine, exported.path, now_ms, checkpoint))
    return done


def retain(
    engine: Engine, days: int, folder: Path, *, now_ms: int, tell: Tell, checkpoint: Checkpoint
) -> tuple[int, list[str]]:
    """Export and remove every month that ended more than `days` ago; return how many batches went, and what did not.

    A month that cannot go yet does not keep the others: its reason is told and returned.
    """
    if days < LEAST_DAYS:
        raise ArchiveError(f"--days {days}: the last {LEAST_DAYS} days stay in the journal")
    gone, kept = 0, list[str]()
    for month in _months_before(engine, now_ms - days * _DAY_MS):
        try:
            for done in export_and_remove(engine, month, folder, now_ms=now_ms, checkpoint=checkpoint):
                tell(f"{month}: {done.manifest.batches} batches moved to {done.path}")
                gone += done.manifest.batches
        except ArchiveError as error:
            tell(f"{month}: stays: {error}")
            kept.append(str(error))
    return gone, kept


def _months_before(engine: Engine, moment_ms: int) -> Iterator[str]:
    """Yield the months of which batches are here and that ended at `moment_ms` or before, oldest first."""
    begins = 0
    while True:
        with reading(engine) as conn:
            oldest = conn.execute(
                select(func.min(batches.c.received_ms)).where(batches.c.received_ms >= begins)
            ).scalar()
        if oldest is None or month_span(month_of(oldest))[1] > moment_ms:
            return
        yield month_of(oldest)
        begins = month_span(month_of(oldest))[1]


def _records(conn: Connection, span: tuple[int, int]) -> Iterator[Batch | Kept]:
    """Yield a month's batches in the order of their ids, then its quarantine in that of their hashes."""
    names = {row.id: row.name for row in conn.execute(select(probes.c.id, probes.c.name))}
    of_stream = {row.id: bytes(row.stream) for row in conn.execute(select(streams.c.id, streams.c.stream))}
    for row in _pages(conn, _of_month(batches, span), batches.c.id):
        name = names[row.probe_id]
        yield Batch(
            name, of_stream[row.stream_id], row.seq, row.received_ms, topic(name, "batch"), bytes(row.message), row.id
        )
    for row in _pages(conn, _of_month(quarantine, span), quarantine.c.hash):
        yield Kept(row.probe_name, row.topic, row.reason, row.detail, row.received_ms, bytes(row.message))


def _of_month(table: Any, span: tuple[int, int]) -> Select[Any]:
    return select(table).where(table.c.received_ms >= span[0], table.c.received_ms < span[1])


def _pages(conn: Connection, found: Select[Any], by: Any) -> Iterator[Any]:
    """Yield the rows in the order of a unique column, one page in memory, each going on where the last ended."""
    page = conn.execute(found.order_by(by).limit(_PAGE)).all()
    while page:
        yield from page
        page = conn.execute(found.where(by > getattr(page[-1], by.name)).order_by(by).limit(_PAGE)).all()


def _where(conn: Connection, month: str) -> str:
    files = conn.execute(select(archives.c.file).where(archives.c.month == month).order_by(archives.c.file)).scalars()
    named = ", ".join(files)
    return f"; moved out to {named}" if named else ""


# --- remove ----------------------------------------------------------------------------------------------------------


def _check_may_go(engine: Engine, month: str, now_ms: int) -> None:
    may_go = month_span(month)[1] + LEAST_DAYS * _DAY_MS
    if now_ms < may_go:
        raise ArchiveError(f"{month} may be removed from {iso(may_go)} on, {LEAST_DAYS} days after its end")
    with reading(engine) as conn:
        _check_not_newest(conn, month)
        _check_nothing_due(conn, month)


def _check_not_newest(conn: Connection, month: str) -> None:
    """Keep the highest id of all: SQLite would give it to the next batch, and that one would inherit what it told."""
    newest = conn.execute(select(func.max(batches.c.id))).scalar()
    received_ms = conn.execute(select(batches.c.received_ms).where(batches.c.id == newest)).scalar()
    if received_ms is not None and month_of(received_ms) == month:
        raise ArchiveError(f"{month} holds the batch that was journalled last: it goes once a newer one has come")


def _check_nothing_due(conn: Connection, month: str) -> None:
    begins, ends = month_span(month)
    waiting = select(func.count(todo.c.batch_id.distinct())).join(batches, batches.c.id == todo.c.batch_id)
    due = conn.execute(waiting.where(batches.c.received_ms >= begins, batches.c.received_ms < ends)).scalar_one()
    if due:
        raise ArchiveError(f"{due} batches of {month} are still to be written to InfluxDB: they stay until they are")


def _begun(engine: Engine, month: str, folder: Path) -> list[Path]:
    """Return the files of the month in `folder` whose batches were noted as going: some may still be here."""
    with reading(engine) as conn:
        if is_postgresql(conn):  # there they went at once
            return []
        noted = conn.execute(select(archives.c.file).where(archives.c.month == month).order_by(archives.c.file))
        return [folder / name for name in noted.scalars() if (folder / name).exists()]


def _remove(engine: Engine, path: Path, now_ms: int, checkpoint: Checkpoint) -> Exported:
    """Remove from the journal the batches that a file is proven to hold."""
    manifest = archive.verify(path)
    if is_server(engine):
        _drop(engine, manifest, now_ms)
    else:
        with engine.begin() as conn:
            _check_nothing_due(conn, manifest.month)
            _note(conn, manifest, now_ms)
        checkpoint("after_note")
        for group in _groups(record for record in archive.read(path) if isinstance(record, Batch)):
            with engine.begin() as conn:
                _check_nothing_due(conn, manifest.month)
                held = [{"its_id": record.id, "its_hash": digest(record.message)} for record in group]
                mine = (batches.c.id == bindparam("its_id")) & (batches.c.hash == bindparam("its_hash"))
                conn.execute(delete(batches).where(mine), held)
            checkpoint("while_removing")
    return Exported(path, manifest, removed=True)


def _drop(engine: Engine, manifest: Manifest, now_ms: int) -> None:
    """Drop the month's partition, nobody else being at it, if the file holds as many batches as it does."""
    month = manifest.month
    try:
        with engine.begin() as conn:
            conn.execute(text("SET LOCAL lock_timeout = '10s'"))
            conn.execute(text("LOCK TABLE ONLY batches IN ACCESS EXCLUSIVE MODE"))
            _check_not_newest(conn, month)
            _check_nothing_due(conn, month)
            here = conn.execute(select(func.count()).select_from(_of_month(batches, month_span(month)).subquery()))
            if here.scalar_one() != manifest.batches:
                raise ArchiveError(f"batches of {month} came while it was exported: do it again")
            _note(conn, manifest, now_ms)
            conn.execute(text(f"DROP TABLE {partition_of(month)}"))
    except OperationalError as error:
        if "lock timeout" not in str(error):
            raise
        raise ArchiveError(f"{month}: the journal was in use for 10 s on end: do it again") from None


def _note(conn: Connection, manifest: Manifest, now_ms: int) -> None:
    values = {"file": manifest.file, "batches": manifest.batches, "removed_ms": now_ms}
    conn.execute(
        insert_or(conn, archives)
        .values(month=manifest.month, sha256=manifest.sha256, **values)
        .on_conflict_do_update(index_elements=[archives.c.month, archives.c.sha256], set_=values)
    )


# --- in --------------------------------------------------------------------------------------------------------------


def bring_in(
    engine: Engine, paths: Sequence[Path], registry: Path | None, *, now_ms: int, tell: Tell, checkpoint: Checkpoint
) -> Counter[str]:
    """Journal what the files hold and return how often which outcome; ``put_back`` is what had been moved out.

    All files are verified before anything is written. A batch that cannot be believed with the registry's keys is
    counted under its reason and not taken. Doing it again changes nothing.
    """
    manifests = [archive.verify(path) for path in paths]
    if registry is not None:
        _restore_registry(engine, registry, manifests)
    outcomes = Counter[str]()
    for path, manifest in zip(paths, manifests, strict=True):
        ensure_month(engine, manifest.month)
        done = 0
        for group in _groups(archive.read(path)):
            with engine.begin() as conn:
                outcomes += _take(conn, [each for each in group if isinstance(each, Batch)], manifest, now_ms)
                for kept in group:
                    if isinstance(kept, Kept):
                        outcomes["kept"] += _keep(conn, kept)
            checkpoint("while_importing")
            if (done + len(group)) // _TELL_EVERY > done // _TELL_EVERY:
                tell(f"{path.name}: {done + len(group)} of {manifest.batches + manifest.quarantined}")
            done += len(group)
    return outcomes


def _restore_registry(engine: Engine, path: Path, manifests: Sequence[Manifest]) -> None:
    sha256 = archive.sha256_of(path)
    if sha256 not in {manifest.registry_sha256 for manifest in manifests}:
        raise ArchiveError(f"{path}: no manifest of the files names it by this SHA-256")
    with engine.begin() as conn:
        registry_file.restore(conn, path.read_bytes())


def _take(conn: Connection, records: Sequence[Batch], manifest: Manifest, now_ms: int) -> Counter[str]:
    speakers = Speakers(conn, (record.topic for record in records))
    outcomes = Counter[str]()
    believed: list[Verified] = []
    for record in records:
        judgement = speakers.judge(Message(record.topic, record.message, record.received_ms))
        if isinstance(judgement, Verified):
            believed.append(judgement)
        else:
            outcomes[getattr(judgement, "reason", "unreadable")] += 1
    ids = {digest(record.message): record.id for record in records}
    stored = journal.store(conn, believed, now_ms=now_ms, quarantine_max_bytes=0, moved_out=ids).outcomes
    if "put_back" in stored:
        _check_own(conn, manifest)
    return outcomes + Counter(stored)


def _check_own(conn: Connection, manifest: Manifest) -> None:
    """Refuse ids that are not this journal's: what stayed of a batch that was moved out names it by its id."""
    noted = conn.execute(select(archives.c.file).where(archives.c.sha256 == manifest.sha256)).first()
    if noted is None and manifest.journal_id != journal.journal_id_of(conn).hex():
        raise ArchiveError(
            f"{manifest.file}: holds batches of {manifest.month} by other ids{_where(conn, manifest.month)}"
        )


def _keep(conn: Connection, kept: Kept) -> int:
    """Put a message back into quarantine unless it, or its batch, is here; what had settled its seq does so again."""
    hashed, envelope = digest(kept.message), unpack(kept.message)[0]
    stream_id = journal.stream_of(conn, kept.probe_name, envelope.stream)
    settled = select(seen.c.hash).where(
        seen.c.stream_id == stream_id, seen.c.hash == hashed, seen.c.how == "journalled"
    )
    if conn.execute(settled).first() is not None:
        return 0
    values = {name: getattr(kept, name) for name in kept.__struct_fields__}
    new = insert_or(conn, quarantine).values(hash=hashed, **values).on_conflict_do_nothing()
    is_new = conn.execute(new.returning(quarantine.c.id)).first() is not None
    if kept.reason == "quarantined" and stream_id is not None:
        own = {"how": "quarantined", "month": month_of(kept.received_ms)}
        conn.execute(
            insert_or(conn, seen)
            .values(stream_id=stream_id, seq=envelope.seq, hash=hashed, **own)
            .on_conflict_do_nothing()
        )
    return int(is_new)


def _groups(records: Iterable[_T]) -> Iterator[list[_T]]:
    left = iter(records)
    while group := list(islice(left, _PAGE)):
        yield group


# --- what is not here ------------------------------------------------------------------------------------------------


def told(moved: dict[str, int]) -> str:
    """Return what to say of batches that are moved out, by month of measurement; nothing when there are none."""
    if not moved:
        return ""
    counted = ", ".join(f"{count} of {month}" for month, count in moved.items())
    return f"; archived batches measured in that time: {counted}: import them first to have them written anew"
