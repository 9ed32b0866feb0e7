"""The journal: a group of judged messages in one commit, and the receipts that this commit allows.

What a receipt says is in the database, fsynced, before the receipt exists. A batch stands once per (probe, stream,
seq); a batch that cannot be read is quarantined and settles its seq; a message that cannot be believed is quarantined
under its hash alone. The same commit tells the projections what is due.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, or_, select, update

from banua_collector import boots
from banua_collector.clock import month_of
from banua_collector.db import insert_or, lock_probes, new_journal_id
from banua_collector.registry import Affected
from banua_collector.tables import anchors, batches, events, journal, probes, quarantine, seen, streams, todo, written
from banua_collector.verify import Refused, Verified
from banua_wire.batch import HASH8_BYTES
from banua_wire.birth import State
from banua_wire.receipt import MAX_RANGES, Receipt
from banua_wire.rows import Row

PROJECTIONS: Final = ("influx",)
_IDS: Final = 500
"""Most ids in one statement."""
_MOST_LOST: Final = 2000
"""Most seqs that one `lost` row can declare."""


@dataclass(slots=True)
class Answer:
    """What one probe is told of one stream."""

    speaker: str
    stream: bytes
    got: list[tuple[int, bytes]] = field(default_factory=list)
    rejects: list[tuple[int, bytes, str]] = field(default_factory=list)


@dataclass(slots=True)
class Committed:
    """What a commit did: receipts by probe name, and how often which outcome."""

    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)


def store(
    conn: Connection, judged: Sequence[Verified | Refused], *, now_ms: int, quarantine_max_bytes: int
) -> Committed:
    """Write `judged` in the open transaction of `conn` and return what may be said once it is committed."""
    done = Committed()
    answers: dict[tuple[str, bytes], Answer] = {}
    stream_rows = _lock_streams(conn, judged, now_ms)
    for item in judged:
        envelope = item.envelope
        answer = answers.setdefault((item_speaker(item), envelope.stream), Answer(item_speaker(item), envelope.stream))
        entry = (envelope.seq, item.digest[:HASH8_BYTES])
        reason = _settle(conn, item, stream_rows, now_ms, quarantine_max_bytes)
        done.outcomes.append(reason)
        if reason in {"journalled", "duplicate"}:
            answer.got.append(entry)
        else:
            answer.rejects.append((*entry, reason))
        if reason == "journalled" and isinstance(item, Verified):
            done.rows += [row.kind for row in item.rows]
    journal_id = journal_id_of(conn)
    for (speaker, stream), answer in answers.items():
        row = stream_rows.get((speaker, stream)) or _stream_row(conn, stream, probes.c.name == speaker)
        stored_to, also = (0, []) if row is None else _advance(conn, row)
        done.receipts.append(
            (speaker, Receipt(stream, journal_id, 0, answer.got, answer.rejects, stored_to, also, now_ms))
        )
    return done


def _stream_row(conn: Connection, stream: bytes, whose: ColumnElement[bool]) -> int | None:
    """Return the row of a stream of the probe that `whose` picks: what is settled is told beside a refusal too."""
    return conn.execute(
        select(streams.c.id).join(probes, probes.c.id == streams.c.probe_id).where(whose, streams.c.stream == stream)
    ).scalar()


def item_speaker(item: Verified | Refused) -> str:
    """Return the probe name under which `item` came: who is answered."""
    return item.speaker if isinstance(item, Refused) else item.envelope.probe


def answer_birth(
    conn: Connection, probe_id: int | None, state: State, *, retained: bool, came_ms: int, now_ms: int
) -> Receipt:
    """Return the receipt that echoes a birth's ask; note the boot, unless the broker only repeats what it retained."""
    stored_to, also = 0, list[tuple[int, int]]()
    if probe_id is not None:
        if not retained:
            _standing_changed(conn, probe_id, boots.born(conn, probe_id, state.boot_id, came_ms), now_ms)
        row = _stream_row(conn, state.stream, probes.c.id == probe_id)
        if row is not None:
            stored_to, also = _advance(conn, row)
    return Receipt(state.stream, journal_id_of(conn), state.ask, [], [], stored_to, also, now_ms)


def journal_id_of(conn: Connection) -> bytes:
    """Return the journal's id."""
    return bytes(conn.execute(select(journal.c.journal_id)).scalar_one())


# --- one message ------------------------------------------------------------------------------------------------------


def _lock_streams(conn: Connection, judged: Iterable[Verified | Refused], now_ms: int) -> dict[tuple[str, bytes], int]:
    """Return the stream row of every judged message whose signature is good, made where it is new."""
    wanted = {(item.probe_id, item_speaker(item), item.envelope.stream) for item in judged if item.probe_id is not None}
    rows: dict[tuple[str, bytes], int] = {}
    for probe_id, speaker, stream in sorted(wanted):
        conn.execute(
            insert_or(conn, streams)
            .values(probe_id=probe_id, stream=stream, stored_to=0, first_seen_ms=now_ms)
            .on_conflict_do_nothing()
        )
        rows[speaker, stream] = conn.execute(
            select(streams.c.id).where(streams.c.probe_id == probe_id, streams.c.stream == stream)
        ).scalar_one()
    return rows


def _settle(
    conn: Connection,
    item: Verified | Refused,
    stream_rows: dict[tuple[str, bytes], int],
    now_ms: int,
    quarantine_max_bytes: int,
) -> str:
    """Put one message where it belongs and return its outcome."""
    if item.probe_id is None:
        return _quarantine(conn, item, item.reason, item.detail, quarantine_max_bytes)
    stream_id = stream_rows[item_speaker(item), item.envelope.stream]
    known = conn.execute(
        select(seen.c.hash, seen.c.how).where(seen.c.stream_id == stream_id, seen.c.seq == item.envelope.seq)
    ).first()
    if known is not None and known.hash is not None:
        if known.hash == item.digest:
            return "duplicate" if known.how == "journalled" else "quarantined"
        detail = f"seq {item.envelope.seq} of this stream is taken by another batch"
        return _quarantine(conn, item, "conflict", detail, None)
    if isinstance(item, Refused):
        reason = _quarantine(conn, item, item.reason, item.detail, None)
        _see(conn, stream_id, item, "quarantined")
        return reason
    _see(conn, stream_id, item, "journalled")
    _insert_batch(conn, stream_id, item, now_ms)
    return "journalled"


def _see(conn: Connection, stream_id: int, item: Verified | Refused, how: str) -> None:
    values = {"hash": item.digest, "how": how, "month": month_of(item.message.received_ms)}
    conn.execute(
        insert_or(conn, seen)
        .values(stream_id=stream_id, seq=item.envelope.seq, **values)
        .on_conflict_do_update(index_elements=[seen.c.stream_id, seen.c.seq], set_=values)
    )


def _quarantine(conn: Connection, item: Verified | Refused, reason: str, detail: str, max_bytes: int | None) -> str:
    """Keep a message with its reason, once; say ``quarantine_full`` when strangers have used up their room."""
    if conn.execute(select(quarantine.c.id).where(quarantine.c.hash == item.digest)).first() is not None:
        return reason
    if max_bytes is not None:
        used = conn.execute(select(func.coalesce(func.sum(func.length(quarantine.c.message)), 0))).scalar_one()
        if used + len(item.message.payload) > max_bytes:
            return "quarantine_full"
    conn.execute(
        insert_or(conn, quarantine)
        .values(
            probe_name=item_speaker(item),
            topic=_text(item.message.topic, 200),
            reason=reason,
            detail=_text(detail, 300),
            hash=item.digest,
            received_ms=item.message.received_ms,
            message=item.message.payload,
        )
        .on_conflict_do_nothing()
    )
    return reason


def _text(text: str, most: int) -> str:
    """Return what both databases can hold of `text`: PostgreSQL takes no NUL."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _insert_batch(conn: Connection, stream_id: int, item: Verified, now_ms: int) -> None:
    envelope, rows = item.envelope, item.rows
    boottimes = [row.boottime_ms for row in rows]
    batch_id = conn.execute(
        insert(batches)
        .values(
            probe_id=item.probe_id,
            stream_id=stream_id,
            seq=envelope.seq,
            hash=item.digest,
            boot_id=envelope.boot_id,
            rows=len(rows),
            first_boottime_ms=min(boottimes, default=0),
            last_boottime_ms=max(boottimes, default=0),
            received_ms=item.message.received_ms,
            message=item.message.payload,
        )
        .returning(batches.c.id)
    ).scalar_one()
    brought_anchors = _insert_told(conn, item, batch_id)
    _declare_lost(conn, item)
    span = boots.Span(stream_id, envelope.seq, (min(boottimes), max(boottimes)) if boottimes else None)
    is_new = boots.batch_came(conn, item.probe_id, envelope.boot_id, span, item.message.received_ms)
    _due(conn, item.probe_id, [batch_id], now_ms)
    if brought_anchors:
        _redate(conn, item.probe_id, envelope.boot_id, batch_id, now_ms)
    clones = boots.overlapping(conn, item.probe_id, envelope.boot_id, item.message.received_ms)
    _standing_changed(conn, item.probe_id, clones, now_ms)
    if is_new:
        _release_withheld(conn, item.probe_id, now_ms)


def _insert_told(conn: Connection, item: Verified, batch_id: int) -> bool:
    """Write what the rows tell SQL: anchors, events, losses; say whether there were anchors."""
    base: dict[str, Any] = {"probe_id": item.probe_id, "batch_id": batch_id, "boot_id": item.envelope.boot_id}
    told = [base | {"boottime_ms": row.boottime_ms} | _told(row) for row in item.rows if _tells(row)]
    found = [values for values in told if "unix_ms" in values]
    if found:
        conn.execute(insert(anchors), found)
    happened = [values | {"noticed_ms": item.message.received_ms} for values in told if "unix_ms" not in values]
    if happened:
        conn.execute(insert(events), happened)
    return bool(found)


_TOLD: Final = {"clock": ("unix_ms", "error_ms"), "event": (), "lost": ()}
"""What goes to SQL, and which of its fields it is worth nothing without: an anchor has a time and an error."""


def _tells(row: Row) -> bool:
    return row.kind in _TOLD and all(name in row.values for name in _TOLD[row.kind])


def _told(row: Row) -> dict[str, Any]:
    values = row.values
    if row.kind == "clock":
        return {name: values[name] for name in _TOLD["clock"]} | {"source": _text(str(values.get("source", "?")), 16)}
    if row.kind == "event":
        name, detail = _text(str(values.get("name", "?")), 200), _text(str(values.get("detail", "")), 300)
        return {"name": name, "n": values.get("n", 0), "detail": detail}
    lost = f"{values.get('stream')}:{values.get('from_seq')}-{values.get('to_seq')} {values.get('reason')}"
    return {"name": "lost", "n": 0, "detail": _text(lost, 300)}


def _declare_lost(conn: Connection, item: Verified) -> None:
    """Settle the seqs that a probe declares lost, as long as nothing of them came."""
    for row in item.rows:
        first, last, stream = (row.values.get(name) for name in ("from_seq", "to_seq", "stream"))
        if row.kind != "lost" or not isinstance(first, int) or not isinstance(last, int):
            continue
        named = select(streams.c.id).where(
            streams.c.probe_id == item.probe_id, streams.c.stream == _stream_of(str(stream))
        )
        stream_id = conn.execute(named).scalar()
        if stream_id is None or not 0 <= last - first < _MOST_LOST:
            continue
        for seq in range(first, last + 1):
            values = {"stream_id": stream_id, "seq": seq, "how": "lost", "month": month_of(item.message.received_ms)}
            conn.execute(insert_or(conn, seen).values(**values).on_conflict_do_nothing())


def _stream_of(digits: str) -> bytes:
    """Return the stream that a `lost` row names in hex; one that is not hex is nobody's."""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def _advance(conn: Connection, stream_id: int) -> tuple[int, list[tuple[int, int]]]:
    """Return `stored_to` and the ranges beyond it, having moved `stored_to` over what is settled now."""
    before = conn.execute(select(streams.c.stored_to).where(streams.c.id == stream_id)).scalar_one()
    island = (seen.c.seq - func.row_number().over(order_by=seen.c.seq)).label("island")
    beyond = select(seen.c.seq, island).where(seen.c.stream_id == stream_id, seen.c.seq > before).subquery()
    first = func.min(beyond.c.seq)
    ranges = [
        (int(least), int(most))
        for least, most in conn.execute(
            select(first, func.max(beyond.c.seq)).group_by(beyond.c.island).order_by(first).limit(MAX_RANGES + 2)
        )
    ]
    stored_to = before
    if ranges and ranges[0][0] == before + 1:
        stored_to = ranges.pop(0)[1]
        conn.execute(update(streams).where(streams.c.id == stream_id).values(stored_to=stored_to))
    highest = conn.execute(select(func.max(seen.c.seq)).where(seen.c.stream_id == stream_id)).scalar() or 0
    if len(ranges) > MAX_RANGES or highest > (ranges[-1][1] if ranges else stored_to):
        ranges = [*ranges[: MAX_RANGES - 1], (highest, highest)]
    return stored_to, ranges


# --- what is due ------------------------------------------------------------------------------------------------------


def _due(conn: Connection, probe_id: int, batch_ids: Iterable[int], now_ms: int) -> None:
    due = [
        {"projection": projection, "probe_id": probe_id, "batch_id": batch_id, "due_ms": now_ms}
        for projection in PROJECTIONS
        for batch_id in batch_ids
    ]
    ids = [entry["batch_id"] for entry in due]
    # one entry a batch, and a fresh one: a projection under way, which knows the old one, cannot take it out
    for start in range(0, len(ids), _IDS):
        conn.execute(delete(todo).where(todo.c.batch_id.in_(ids[start : start + _IDS])))
    if due:
        conn.execute(insert(todo), due)


def due_where(conn: Connection, probe_id: int, now_ms: int, *conditions: Any) -> int:
    """Make every batch of the probe that meets `conditions` due again since `now_ms`; return how many."""
    found = conn.execute(select(batches.c.id).where(batches.c.probe_id == probe_id, *conditions)).scalars().all()
    _due(conn, probe_id, found, now_ms)
    return len(found)


def _redate(conn: Connection, probe_id: int, boot_id: bytes, batch_id: int, now_ms: int) -> None:
    """Make due what the anchors of a new batch re-date: the batches with rows between the anchors that stay."""
    then = set(boots.anchors_of(conn, probe_id, boot_id, but=batch_id))
    now = set(boots.anchors_of(conn, probe_id, boot_id))
    changed = [anchor.boottime_ms for anchor in then ^ now]
    if not changed:
        return
    conditions = [batches.c.boot_id == boot_id]
    before = [anchor.boottime_ms for anchor in then & now if anchor.boottime_ms < min(changed)]
    if before:
        conditions.append(batches.c.last_boottime_ms > max(before))
    after = [anchor.boottime_ms for anchor in then & now if anchor.boottime_ms > max(changed)]
    if after:
        conditions.append(batches.c.first_boottime_ms < min(after))
    due_where(conn, probe_id, now_ms, *conditions)


def _release_withheld(conn: Connection, probe_id: int, now_ms: int) -> None:
    """Make due what waited for a better time: a new boot has begun, so earlier ones get no better."""
    waiting = select(written.c.batch_id).where(written.c.probe_id == probe_id, written.c.withheld > 0)
    due_where(conn, probe_id, now_ms, or_(batches.c.id.in_(waiting), batches.c.id.in_(_under_way(probe_id))))


def mark_range(conn: Connection, affected: Affected, now_ms: int) -> int:
    """Make due every batch of a probe that has, or may have, rows in a range of wall time; return how many.

    A batch that is not written yet (undated, withheld) is due anyway when it can be written. One that is due already
    may be under way to the target as it was before the change; so it is made due once more.
    """
    in_range = select(written.c.batch_id).where(
        written.c.probe_id == affected.probe_id,
        or_(written.c.last_ms.is_(None), written.c.last_ms >= affected.from_ms),
        *([] if affected.to_ms is None else [or_(written.c.first_ms.is_(None), written.c.first_ms <= affected.to_ms)]),
    )
    under_way = _under_way(affected.probe_id)
    return due_where(conn, affected.probe_id, now_ms, or_(batches.c.id.in_(in_range), batches.c.id.in_(under_way)))


def _under_way(probe_id: int) -> Select[tuple[int]]:
    """Select what a projection may be at work on right now, its `written` row not yet up to date."""
    return select(todo.c.batch_id).where(todo.c.probe_id == probe_id)


def assign_boot(conn: Connection, probe_id: int, boot_id: bytes, standing: str, now_ms: int) -> None:
    """Give a held boot back to the projections (``released``) or keep it out for good (``dropped``)."""
    lock_probes(conn, [probe_id])
    boots.assign(conn, probe_id, boot_id, standing)
    due_where(conn, probe_id, now_ms, batches.c.boot_id == boot_id)


def _standing_changed(conn: Connection, probe_id: int, boot_ids: Iterable[bytes], now_ms: int) -> None:
    """Make due every batch of boots that are held from now on: what was projected of them has to go."""
    for boot_id in boot_ids:
        due_where(conn, probe_id, now_ms, batches.c.boot_id == boot_id)


def restored(conn: Connection, now_ms: int) -> int:
    """Mint a new journal id after a restore and make every batch due again; return how many are.

    Probes notice the new id in the answer to their next ask, and send again what this journal has forgotten.
    """
    conn.execute(update(journal).values(journal_id=new_journal_id(), minted_ms=now_ms))
    conn.execute(update(written).values(digest=None))
    found = conn.execute(select(probes.c.id)).scalars().all()
    lock_probes(conn, found)
    return sum(due_where(conn, probe_id, now_ms) for probe_id in found)
