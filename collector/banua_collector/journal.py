"""The journal: a group of judged messages in one commit, and the receipts that this commit allows.

What a receipt says is in the database, fsynced, before the receipt exists. A batch stands once per (probe, stream,
seq); a batch that cannot be read is quarantined and settles its seq; a message that cannot be believed is quarantined
under its hash alone. The same commit tells the projections what is due.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from banua_collector import boots
from banua_collector.clock import month_of
from banua_collector.db import among, insert_or, lock_probes, new_journal_id
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
_GOT: Final = frozenset({"journalled", "duplicate", "put_back"})
"""The outcomes of a batch that is in the journal."""
CONFLICT: Final = "seq {} of this stream is taken by another batch"
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
    """What a commit did: receipts by probe name, each message's outcome, and how many rows of which kind came."""

    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)


def store(
    conn: Connection,
    judged: Sequence[Verified | Refused],
    *,
    now_ms: int,
    quarantine_max_bytes: int,
    moved_out: Mapping[bytes, int] | None = None,
) -> Committed:
    """Write `judged` in the open transaction of `conn` and return what may be said once it is committed.

    With `moved_out`, ids by hash: a batch that is settled but not here goes back under its id, ``put_back``. What it
    told has stayed, and names it by that id.
    """
    done = Committed()
    answers: dict[tuple[str, bytes], Answer] = {}
    group = _Group(conn, judged, now_ms, _Room(conn, quarantine_max_bytes), moved_out or {})
    for item in judged:
        envelope = item.envelope
        answer = answers.setdefault((item_speaker(item), envelope.stream), Answer(item_speaker(item), envelope.stream))
        entry = (envelope.seq, item.digest[:HASH8_BYTES])
        reason = group.settle(item)
        done.outcomes.append(reason)
        if reason in _GOT:
            answer.got.append(entry)
        else:
            answer.rejects.append((*entry, reason))
        if reason == "journalled" and isinstance(item, Verified):
            for block in item.blocks:
                done.rows[block.kind.name] += len(block.boottimes_ms)
    group.write()
    _leave_quarantine(conn, group.taken)
    journal_id = journal_id_of(conn)
    rows = {
        (speaker, stream): group.streams.get((speaker, stream)) or _stream_row(conn, stream, probes.c.name == speaker)
        for speaker, stream in answers
    }
    settled = _advanced(conn, {row for row in rows.values() if row is not None})
    for (speaker, stream), answer in answers.items():
        row = rows[speaker, stream]
        stored_to, also = (0, []) if row is None else settled[row]
        done.receipts.append(
            (speaker, Receipt(stream, journal_id, 0, answer.got, answer.rejects, stored_to, also, now_ms))
        )
    return done


def _stream_row(conn: Connection, stream: bytes, whose: ColumnElement[bool]) -> int | None:
    """Return the row of a stream of the probe that `whose` picks: what is settled is told beside a refusal too."""
    return conn.execute(
        select(streams.c.id).join(probes, probes.c.id == streams.c.probe_id).where(whose, streams.c.stream == stream)
    ).scalar()


def stream_of(conn: Connection, probe: str, stream: bytes) -> int | None:
    """Return the id of a stream of `probe`, None when nothing of it is known."""
    return _stream_row(conn, stream, probes.c.name == probe)


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
            _standing_changed(conn, boots.born(conn, probe_id, state.boot_id, came_ms), now_ms)
        row = _stream_row(conn, state.stream, probes.c.id == probe_id)
        if row is not None:
            stored_to, also = _advance(conn, row)
    return Receipt(state.stream, journal_id_of(conn), state.ask, [], [], stored_to, also, now_ms)


def journal_id_of(conn: Connection) -> bytes:
    """Return the journal's id."""
    return bytes(conn.execute(select(journal.c.journal_id)).scalar_one())


# --- a group of messages ---------------------------------------------------------------------------------------------


class _Group:
    """The messages of one commit: what is known of them is read once, and what is new is written once."""

    def __init__(
        self,
        conn: Connection,
        judged: Sequence[Verified | Refused],
        now_ms: int,
        room: "_Room",
        moved_out: Mapping[bytes, int],
    ) -> None:
        self._conn, self._now_ms, self._room, self._ids = conn, now_ms, room, moved_out
        self.streams = _streams_of(conn, judged, now_ms)
        self.taken: list[bytes] = []
        places = {self._place(item) for item in judged if item.probe_id is not None}
        self._known = _seen_at(conn, places)
        self._gone = _not_here(conn, places) if moved_out else frozenset[tuple[int, int]]()
        self._seen: list[dict[str, Any]] = []
        self._fresh: list[tuple[int, Verified]] = []
        self._back: list[tuple[int, Verified]] = []

    def settle(self, item: Verified | Refused) -> str:
        """Put one message where it belongs and return its outcome."""
        if item.probe_id is None:
            return _quarantine(self._conn, item, item.reason, item.detail, self._room)
        stream_id, seq = place = self._place(item)
        digest, how = self._known.get(place, (None, ""))
        if digest is not None and digest != item.digest:
            return _quarantine(self._conn, item, "conflict", CONFLICT.format(seq), None)
        if isinstance(item, Verified):
            self.taken.append(item.digest)
        if how == "journalled":
            return self._settled(place, item)
        if isinstance(item, Refused):
            if digest is not None:
                return "quarantined"
            reason, how = _quarantine(self._conn, item, item.reason, item.detail, None), "quarantined"
        else:  # new, or unreadable to an earlier version
            reason = how = "journalled"
            self._fresh.append((stream_id, item))
        self._known[place] = (item.digest, how)
        values = {"hash": item.digest, "how": how, "month": month_of(item.message.received_ms)}
        self._seen.append({"stream_id": stream_id, "seq": seq} | values)
        return reason

    def _settled(self, place: tuple[int, int], item: Verified | Refused) -> str:
        if isinstance(item, Refused) or place not in self._gone or item.digest not in self._ids:
            return "duplicate"
        self._back.append((place[0], item))
        self._gone -= {place}
        return "put_back"

    def write(self) -> None:
        """Write what `settle` found new, and what follows from it."""
        if self._seen:
            settled = insert_or(self._conn, seen)
            new = {name: settled.excluded[name] for name in ("hash", "how", "month")}
            self._conn.execute(
                settled.on_conflict_do_update(index_elements=[seen.c.stream_id, seen.c.seq], set_=new), self._seen
            )
        for stream_id, item in self._back:
            batch_id = self._ids[item.digest]
            self._conn.execute(insert(batches).values(id=batch_id, **_batch(stream_id, item)))
            _due(self._conn, item.probe_id, [batch_id], self._now_ms)
        if not self._fresh:
            return
        made = insert(batches).returning(batches.c.id, sort_by_parameter_order=True)
        ids = self._conn.execute(made, [_batch(stream_id, item) for stream_id, item in self._fresh]).scalars().all()
        boot_groups: dict[tuple[int, bytes], _OfBoot] = {}
        for batch_id, (stream_id, item) in zip(ids, self._fresh, strict=True):
            boot = boot_groups.setdefault((item.probe_id, item.envelope.boot_id), _OfBoot())
            boot.add(batch_id, stream_id, item)
        _tell(self._conn, zip(ids, (item for _, item in self._fresh), strict=True))
        for _, item in self._fresh:
            _declare_lost(self._conn, item)
        self._follow([boot.came(probe_id, boot_id) for (probe_id, boot_id), boot in boot_groups.items()])

    def _follow(self, came: list[boots.Came]) -> None:
        """Bring what is known of the boots up to date, and make due what is new or reads differently now."""
        conn, now_ms = self._conn, self._now_ms
        _insert_due(conn, [(each.probe_id, batch_id) for each in came for batch_id in each.ids], now_ms)
        known = boots.batches_came(conn, came)
        for each in known:
            _redate(conn, each, now_ms)
        _standing_changed(conn, boots.overlapping(conn, known, now_ms), now_ms)
        for probe_id in boots.had_others(conn, [each for each in known if each.is_new]):
            _release_withheld(conn, probe_id, now_ms)

    def _place(self, item: Verified | Refused) -> tuple[int, int]:
        return self.streams[item_speaker(item), item.envelope.stream], item.envelope.seq


@dataclass(slots=True)
class _OfBoot:
    """The new batches of one boot: their ids, when the first of them came (ms), where they stand in their streams."""

    ids: list[int] = field(default_factory=list)
    came_ms: int = 0
    _seqs: dict[int, int] = field(default_factory=dict)
    _boottimes_ms: dict[int, list[int]] = field(default_factory=dict)

    def add(self, batch_id: int, stream_id: int, item: Verified) -> None:
        """Count one in."""
        self.ids.append(batch_id)
        self.came_ms = min(self.came_ms or item.message.received_ms, item.message.received_ms)
        self._seqs[stream_id] = min(self._seqs.get(stream_id, item.envelope.seq), item.envelope.seq)
        self._boottimes_ms.setdefault(stream_id, []).extend(item.boottimes_ms or ())

    def came(self, probe_id: int, boot_id: bytes) -> boots.Came:
        """Return it as the boots are told it, a span a stream."""
        spans = [
            boots.Span(stream_id, seq, (min(times), max(times)) if (times := self._boottimes_ms[stream_id]) else None)
            for stream_id, seq in self._seqs.items()
        ]
        return boots.Came(probe_id, boot_id, frozenset(self.ids), spans, self.came_ms)


def _streams_of(conn: Connection, judged: Iterable[Verified | Refused], now_ms: int) -> dict[tuple[str, bytes], int]:
    """Return the stream row of every judged message whose signature is good, made where it is new."""
    wanted = {(item.probe_id, item.envelope.stream): item_speaker(item) for item in judged if item.probe_id is not None}
    found = _stream_rows(conn, wanted)
    if missing := sorted(wanted.keys() - found.keys()):
        new = [{"probe_id": each[0], "stream": each[1], "stored_to": 0, "first_seen_ms": now_ms} for each in missing]
        conn.execute(insert_or(conn, streams).on_conflict_do_nothing(), new)
        found |= _stream_rows(conn, missing)
    return {(speaker, stream): found[probe_id, stream] for (probe_id, stream), speaker in wanted.items()}


def _stream_rows(conn: Connection, wanted: Collection[tuple[int, bytes]]) -> dict[tuple[int, bytes], int]:
    found = select(streams.c.probe_id, streams.c.stream, streams.c.id)
    found = found.where(among(wanted, streams.c.probe_id, streams.c.stream))
    return {(row.probe_id, row.stream): row.id for row in conn.execute(found)}


def _seen_at(conn: Connection, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], tuple[bytes | None, str]]:
    """Return hash and outcome of what is settled at these (stream row, seq)."""
    known = select(seen.c.stream_id, seen.c.seq, seen.c.hash, seen.c.how)
    found = conn.execute(known.where(among(places, seen.c.stream_id, seen.c.seq)))
    return {(row.stream_id, row.seq): (row.hash, row.how) for row in found}


# --- one message ------------------------------------------------------------------------------------------------------


class _Room:
    """How many bytes messages of strangers may still take up; what they do is summed up once a group at most."""

    def __init__(self, conn: Connection, max_bytes: int) -> None:
        self._conn, self._max_bytes = conn, max_bytes
        self._left: int | None = None

    def take(self, size: int) -> bool:
        """Take `size` bytes, if there is room for them."""
        if self._left is None:
            used = select(func.coalesce(func.sum(func.length(quarantine.c.message)), 0))
            self._left = self._max_bytes - int(self._conn.execute(used).scalar_one())
        if size > self._left:
            return False
        self._left -= size
        return True


def _quarantine(conn: Connection, item: Verified | Refused, reason: str, detail: str, room: _Room | None) -> str:
    """Keep a message, once, with its newest reason; ``quarantine_full`` when strangers have used up their room."""
    known = conn.execute(select(quarantine.c.reason).where(quarantine.c.hash == item.digest)).scalar()
    if known is not None:
        if known != reason:
            again = update(quarantine).where(quarantine.c.hash == item.digest)
            conn.execute(again.values(reason=reason, detail=_text(detail, 300)))
        return reason
    if room is not None and not room.take(len(item.message.payload)):
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


def _not_here(conn: Connection, places: Collection[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """Return which of the (stream row, seq) have no batch in the journal."""
    place = batches.c.stream_id, batches.c.seq
    found = conn.execute(select(*place).where(among(places, *place)))
    return frozenset(places) - {(row.stream_id, row.seq) for row in found}


def _leave_quarantine(conn: Connection, taken: Sequence[bytes]) -> None:
    """Take out of quarantine what is in the journal now: a key was registered since, or this version reads it."""
    for start in range(0, len(taken), _IDS):
        conn.execute(delete(quarantine).where(quarantine.c.hash.in_(taken[start : start + _IDS])))


def _text(text: str, most: int) -> str:
    """Return what both databases can hold of `text`: PostgreSQL takes no NUL."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _batch(stream_id: int, item: Verified) -> dict[str, Any]:
    first, last = item.boottimes_ms or (0, 0)
    return {
        "probe_id": item.probe_id,
        "stream_id": stream_id,
        "seq": item.envelope.seq,
        "hash": item.digest,
        "boot_id": item.envelope.boot_id,
        "rows": sum(len(block.boottimes_ms) for block in item.blocks),
        "first_boottime_ms": first,
        "last_boottime_ms": last,
        "received_ms": item.message.received_ms,
        "message": item.message.payload,
    }


def _tell(conn: Connection, numbered: Iterable[tuple[int, Verified]]) -> None:
    """Write what the rows tell SQL: anchors, events, losses."""
    found: list[dict[str, Any]] = []
    happened: list[dict[str, Any]] = []
    for batch_id, item in numbered:
        base = {"probe_id": item.probe_id, "batch_id": batch_id, "boot_id": item.envelope.boot_id}
        for row in item.told():
            if row.kind == "clock":
                if all(name in row.values for name in _ANCHOR):
                    found.append(base | {"boottime_ms": row.boottime_ms} | _told(row))
            else:
                noticed = {"boottime_ms": row.boottime_ms, "noticed_ms": item.message.received_ms}
                happened.append(base | noticed | _told(row))
    if found:
        conn.execute(insert(anchors), found)
    if happened:
        conn.execute(insert(events), happened)


_ANCHOR: Final = ("unix_ms", "error_ms")
"""What an anchor is worth nothing without."""


def _told(row: Row) -> dict[str, Any]:
    values = row.values
    if row.kind == "clock":
        return {name: values[name] for name in _ANCHOR} | {"source": _text(str(values.get("source", "?")), 16)}
    if row.kind == "event":
        name, detail = _text(str(values.get("name", "?")), 200), _text(str(values.get("detail", "")), 300)
        return {"name": name, "n": values.get("n", 0), "detail": detail}
    lost = f"{values.get('stream')}:{values.get('from_seq')}-{values.get('to_seq')} {values.get('reason')}"
    return {"name": "lost", "n": 0, "detail": _text(lost, 300)}


def _declare_lost(conn: Connection, item: Verified) -> None:
    """Settle the seqs that a probe declares lost, as long as nothing of them came."""
    for row in item.told():
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


def _advanced(conn: Connection, stream_ids: Collection[int]) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Return `_advance` of many streams; those without a gap, as usual, in one go."""
    beyond = and_(seen.c.stream_id == streams.c.id, seen.c.seq > streams.c.stored_to)
    columns = (
        streams.c.id,
        streams.c.stored_to,
        func.count(seen.c.seq).label("n"),
        func.max(seen.c.seq).label("highest"),
    )
    asked = select(*columns).outerjoin(seen, beyond).where(streams.c.id.in_(stream_ids)).group_by(streams.c.id)
    settled: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    moved: list[dict[str, int]] = []
    for row in conn.execute(asked.group_by(streams.c.stored_to)).all():
        if row.n and row.highest != row.stored_to + row.n:
            settled[row.id] = _advance(conn, row.id)
        else:
            settled[row.id] = (row.stored_to + row.n, [])
            moved += [{"its_id": row.id, "stored_to": row.stored_to + row.n}] if row.n else []
    if moved:
        conn.execute(update(streams).where(streams.c.id == bindparam("its_id")), moved)
    return settled


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
    ids = list(batch_ids)
    # one entry a batch, and a fresh one: a projection under way, which knows the old one, cannot take it out
    for start in range(0, len(ids), _IDS):
        conn.execute(delete(todo).where(todo.c.batch_id.in_(ids[start : start + _IDS])))
    _insert_due(conn, [(probe_id, batch_id) for batch_id in ids], now_ms)


def _insert_due(conn: Connection, due: Iterable[tuple[int, int]], now_ms: int) -> None:
    """Write work for every projection; `due` are pairs of probe and batch."""
    entries = [
        {"projection": projection, "probe_id": probe_id, "batch_id": batch_id, "due_ms": now_ms}
        for projection in PROJECTIONS
        for probe_id, batch_id in due
    ]
    if entries:
        conn.execute(insert(todo), entries)


def due_where(conn: Connection, probe_id: int, now_ms: int, *conditions: Any) -> int:
    """Make every batch of the probe that meets `conditions` due again since `now_ms`; return how many."""
    found = conn.execute(select(batches.c.id).where(batches.c.probe_id == probe_id, *conditions)).scalars().all()
    _due(conn, probe_id, found, now_ms)
    return len(found)


def due_batches(conn: Connection, probe_id: int, batch_ids: Sequence[int], now_ms: int) -> int:
    """Make due those of a probe's batches that are here, and not moved out; return how many."""
    lock_probes(conn, [probe_id])
    some = (batch_ids[start : start + _IDS] for start in range(0, len(batch_ids), _IDS))
    return sum(due_where(conn, probe_id, now_ms, batches.c.id.in_(ids)) for ids in some)


def _redate(conn: Connection, known: boots.Known, now_ms: int) -> None:
    """Make due what new anchors re-date: the batches with rows between the anchors that stay."""
    then, now = set(known.then), set(known.now)
    changed = [anchor.boottime_ms for anchor in then ^ now]
    last_ms = known.row.last_boottime_ms  # of what was here before
    if not changed or last_ms is None:
        return
    conditions = [batches.c.boot_id == known.came.boot_id]
    before = [anchor.boottime_ms for anchor in then & now if anchor.boottime_ms < min(changed)]
    if before:
        if last_ms <= max(before):
            return
        conditions.append(batches.c.last_boottime_ms > max(before))
    after = [anchor.boottime_ms for anchor in then & now if anchor.boottime_ms > max(changed)]
    if after:
        conditions.append(batches.c.first_boottime_ms < min(after))
    due_where(conn, known.came.probe_id, now_ms, *conditions)


def _release_withheld(conn: Connection, probe_id: int, now_ms: int) -> None:
    """Make due what waited for a better time: a new boot has begun, so earlier ones get no better."""
    waiting = select(written.c.batch_id).where(written.c.probe_id == probe_id, written.c.withheld > 0)
    due_where(conn, probe_id, now_ms, or_(batches.c.id.in_(waiting), batches.c.id.in_(_under_way(probe_id))))


def mark_range(conn: Connection, affected: Affected, now_ms: int) -> int:
    """Make due every batch of a probe that has, or may have, rows in a range of wall time; return how many.

    A batch that is not written yet (undated, withheld) is due anyway when it can be written. One that is due already
    may be under way to the target as it was before the change; so it is made due once more.
    """
    in_range = select(written.c.batch_id).where(*_wrote_within(affected))
    under_way = _under_way(affected.probe_id)
    return due_where(conn, affected.probe_id, now_ms, or_(batches.c.id.in_(in_range), batches.c.id.in_(under_way)))


def _wrote_within(affected: Affected) -> list[ColumnElement[bool]]:
    """Return what a `written` row meets whose batch has, or may have, rows in the range."""
    begins = or_(written.c.last_ms.is_(None), written.c.last_ms >= affected.from_ms)
    ends = None if affected.to_ms is None else or_(written.c.first_ms.is_(None), written.c.first_ms <= affected.to_ms)
    return [written.c.probe_id == affected.probe_id, begins, *([] if ends is None else [ends])]


def _under_way(probe_id: int) -> Select[tuple[int]]:
    """Select what a projection may be at work on right now, its `written` row not yet up to date."""
    return select(todo.c.batch_id).where(todo.c.probe_id == probe_id)


def assign_boot(conn: Connection, probe_id: int, boot_id: bytes, standing: str, now_ms: int) -> None:
    """Give a held boot back to the projections (``released``) or keep it out for good (``dropped``)."""
    lock_probes(conn, [probe_id])
    boots.assign(conn, probe_id, boot_id, standing)
    due_where(conn, probe_id, now_ms, batches.c.boot_id == boot_id)


def _standing_changed(conn: Connection, changed: Iterable[tuple[int, bytes]], now_ms: int) -> None:
    """Make due every batch of boots that are held from now on: what was projected of them has to go."""
    for probe_id, boot_id in changed:
        due_where(conn, probe_id, now_ms, batches.c.boot_id == boot_id)


def restored(conn: Connection, now_ms: int) -> int:
    """Mint a new journal id after a restore and make every batch due again; return how many are.

    Probes notice the new id in the answer to their next ask, and send again what this journal has forgotten.
    """
    conn.execute(update(journal).values(journal_id=new_journal_id(), minted_ms=now_ms))
    return sum(
        replay(conn, Affected(probe_id, 0, None), now_ms)
        for probe_id in conn.execute(select(probes.c.id)).scalars().all()
    )


def replay(conn: Connection, wanted: Affected, now_ms: int) -> int:
    """Have every batch with rows in a probe's range of wall time deleted and written again; return how many.

    Safe beside a projection at work: what it has under way is due once more when it is done, and as nobody has noted
    it: else what the projection notes last would hide that it has to be deleted first.
    """
    lock_probes(conn, [wanted.probe_id])
    conn.execute(update(written).where(*_wrote_within(wanted)).values(digest=None, noted_ms=0))
    if (wanted.from_ms, wanted.to_ms) == (0, None):
        return due_where(conn, wanted.probe_id, now_ms)
    return mark_range(conn, wanted, now_ms)


def moved_out(conn: Connection, affected: Affected) -> dict[str, int]:
    """Return how many batches with rows in a range are moved out, by the month in which they were measured.

    None of them is made due by anything until it is imported.
    """
    gone = select(func.min(written.c.first_ms)).where(
        *_wrote_within(affected), written.c.first_ms.is_not(None), ~exists().where(batches.c.id == written.c.batch_id)
    )
    found = conn.execute(gone.group_by(written.c.batch_id)).scalars()
    return dict(sorted(Counter(map(month_of, found)).items()))


def moved_out_of_boot(conn: Connection, probe_id: int, boot_id: bytes) -> dict[str, int]:
    """Return how many batches of a boot that brought an anchor are moved out, by month of measurement."""
    gone = select(func.min(anchors.c.unix_ms)).where(
        anchors.c.probe_id == probe_id,
        anchors.c.boot_id == boot_id,
        ~exists().where(batches.c.id == anchors.c.batch_id),
    )
    found = conn.execute(gone.group_by(anchors.c.batch_id)).scalars()
    return dict(sorted(Counter(map(month_of, found)).items()))
