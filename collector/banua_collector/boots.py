"""Boots of a probe: when each ran, and whether two of them ran at once.

One probe has one running boot. Two whose times overlap beyond their errors, or an older one that is born again after
a newer one was, are two devices under one name (a copied card): both are held from every projection until a person
decides.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from banua_collector.dating import Anchor, date, in_order
from banua_collector.db import among
from banua_collector.errors import RegistryError
from banua_collector.tables import anchors, boots, events

OK: Final = "ok"
HELD: Final = "held"
STANDINGS: Final = ("released", "dropped")
"""What a person can decide for a held boot: count it, or keep it out for good."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a batch stands: its stream and seq, its first and last row in ms of CLOCK_BOOTTIME (None: no rows)."""

    stream_id: int
    seq: int
    boottimes_ms: tuple[int, int] | None


def boot_row(conn: Connection, probe_id: int, boot_id: bytes) -> Row[Any] | None:
    """Return the row of a boot, None if nothing of it came yet."""
    return conn.execute(select(boots).where(boots.c.probe_id == probe_id, boots.c.boot_id == boot_id)).first()


def anchors_of(conn: Connection, probe_id: int, boot_id: bytes) -> list[Anchor]:
    """Return the anchors of a boot that count, sorted."""
    found = anchors_by_boot(conn, [(probe_id, boot_id)]).get((probe_id, boot_id), ())
    return in_order(anchor for _, anchor in found)


def born(conn: Connection, probe_id: int, boot_id: bytes, came_ms: int) -> list[tuple[int, bytes]]:
    """Note that a boot connected at `came_ms`; return the boots that this proves to be live clones, now held.

    Several collectors may get to births in another order than they came in, so their arrival counts.
    """
    row = boot_row(conn, probe_id, boot_id)
    if row is None:
        _insert(conn, probe_id, boot_id, came_ms, first_birth_ms=came_ms)
        return []
    if row.first_birth_ms is None:
        conn.execute(update(boots).where(boots.c.id == row.id).values(first_birth_ms=came_ms))
        return []
    newer = conn.execute(
        select(boots).where(
            boots.c.probe_id == probe_id,
            boots.c.first_birth_ms > row.first_birth_ms,
            boots.c.first_birth_ms < came_ms,
        )
    ).all()
    return _hold(conn, probe_id, [row, *newer], came_ms, "connects again after a newer boot did") if newer else []


@dataclass(frozen=True, slots=True)
class Came:
    """What new batches bring of one boot: where they stand in its streams, and when the first of them came (ms)."""

    probe_id: int
    boot_id: bytes
    ids: Collection[int]
    spans: Sequence[Span]
    came_ms: int

    @property
    def who(self) -> tuple[int, bytes]:
        """The boot's probe and id."""
        return self.probe_id, self.boot_id


@dataclass(frozen=True, slots=True)
class Known:
    """A boot as new batches have left it: its row before, its anchors before and now, and what its row says now."""

    came: Came
    row: Row[Any]
    then: list[Anchor]
    now: list[Anchor]
    values: dict[str, Any]

    @property
    def is_new(self) -> bool:
        """Whether these were the boot's first batches."""
        return self.row.stream_id is None


def _up_to_date(row: Row[Any], spans: Sequence[Span], now: list[Anchor]) -> dict[str, Any]:
    """Return the columns of a boot that batches tell, with what new ones say."""
    names = ("stream_id", "first_seq", "first_boottime_ms", "last_boottime_ms", "start_ms", "end_ms", "error_ms")
    values = {name: getattr(row, name) for name in names}
    for span in spans:
        if values["stream_id"] is None:
            values |= {"stream_id": span.stream_id, "first_seq": span.seq}
        elif values["stream_id"] == span.stream_id:
            values["first_seq"] = _least(values["first_seq"], span.seq)
        if span.boottimes_ms is not None:
            first, last = span.boottimes_ms
            values["first_boottime_ms"] = first = _least(values["first_boottime_ms"], first)
            values["last_boottime_ms"] = last = max(values["last_boottime_ms"] or 0, last)
            values |= _interval(first, last, now)
    return values


def batches_came(conn: Connection, came: Sequence[Came]) -> list[Known]:
    """Note journalled batches of some boots, their anchors being in the database already; return what is known."""
    wanted = [each.who for each in came]
    rows = _rows_of(conn, wanted)
    new = [each for each in came if each.who not in rows]
    if new:
        seen = ("probe_id", "boot_id")
        conn.execute(
            insert(boots),
            [dict(zip(seen, each.who, strict=True)) | {"first_seen_ms": each.came_ms, "standing": OK} for each in new],
        )
        rows |= _rows_of(conn, [each.who for each in new])
    told = anchors_by_boot(conn, wanted)
    known: list[Known] = []
    for each in came:
        found = told.get(each.who, [])
        then = in_order(anchor for batch_id, anchor in found if batch_id not in each.ids)
        now = in_order(anchor for _, anchor in found)
        row = rows[each.who]
        known.append(Known(each, row, then, now, _up_to_date(row, each.spans, now)))
    changes = [{"its_id": each.row.id} | each.values for each in known]
    conn.execute(update(boots).where(boots.c.id == bindparam("its_id")), changes)
    return known


def had_others(conn: Connection, known: Sequence[Known]) -> list[int]:
    """Return the probes of `known` boots that had other boots, too."""
    if not known:
        return []
    mine = {each.came.probe_id for each in known}
    others = select(boots.c.probe_id).where(
        boots.c.probe_id.in_(mine), boots.c.id.not_in([each.row.id for each in known])
    )
    return sorted(set(conn.execute(others.distinct()).scalars()))


def overlapping(conn: Connection, known: Sequence[Known], now_ms: int) -> list[tuple[int, bytes]]:
    """Hold the boots that ran while a known one did, beyond all errors, and that one; return those that changed."""
    dated = [(each.came.probe_id, each.row.id, each.values) for each in known if each.values["start_ms"] is not None]
    if not dated:
        return []
    begins = min(values["start_ms"] for *_, values in dated)
    near = select(boots).where(boots.c.probe_id.in_({probe_id for probe_id, *_ in dated}), boots.c.end_ms >= begins)
    by_probe: dict[int, dict[int, Row[Any]]] = {}
    for row in conn.execute(near):
        by_probe.setdefault(row.probe_id, {})[row.id] = row
    held: list[tuple[int, bytes]] = []
    for probe_id, row_id, values in dated:
        mine = by_probe[probe_id]
        others = [row for row in mine.values() if row.id != row_id and _overlap(row, values)]
        if others and not {(row.probe_id, row.boot_id) for row in (mine[row_id], *others)} <= set(held):
            held += _hold(conn, probe_id, [mine[row_id], *others], now_ms, "runs while another boot does")
    return held


def _overlap(row: Row[Any], values: dict[str, Any]) -> bool:
    error_ms = row.error_ms + values["error_ms"]
    return bool(row.start_ms + error_ms < values["end_ms"] and row.end_ms - error_ms > values["start_ms"])


def _rows_of(conn: Connection, wanted: Collection[tuple[int, bytes]]) -> dict[tuple[int, bytes], Row[Any]]:
    found = conn.execute(select(boots).where(among(wanted, boots.c.probe_id, boots.c.boot_id)))
    return {(row.probe_id, row.boot_id): row for row in found}


def anchors_by_boot(
    conn: Connection, wanted: Collection[tuple[int, bytes]]
) -> dict[tuple[int, bytes], list[tuple[int, Anchor]]]:
    """Return every anchor of some boots, each beside the batch that brought it."""
    found: dict[tuple[int, bytes], list[tuple[int, Anchor]]] = {}
    for row in conn.execute(select(anchors).where(among(wanted, anchors.c.probe_id, anchors.c.boot_id))):
        anchor = Anchor(row.boottime_ms, row.error_ms, row.unix_ms)
        found.setdefault((row.probe_id, row.boot_id), []).append((row.batch_id, anchor))
    return found


def assign(conn: Connection, probe_id: int, boot_id: bytes, standing: str) -> None:
    """Record a person's decision on a held boot; RegistryError when there is nothing to decide."""
    if standing not in STANDINGS:
        raise RegistryError(f"standing: {standing!r} is not one of {', '.join(STANDINGS)}")
    row = boot_row(conn, probe_id, boot_id)
    if row is None or row.standing == OK:
        raise RegistryError(f"boot {boot_id.hex()}: not one that is held")
    conn.execute(update(boots).where(boots.c.id == row.id).values(standing=standing))


def is_over(row: Row[Any], others: list[Row[Any]]) -> bool:
    """Say whether a later boot of the same probe is known, so that this one's times will get no better."""
    return any(_later(other, row) for other in others if other.id != row.id)


def _later(one: Row[Any], other: Row[Any]) -> bool:
    if one.stream_id is not None and one.stream_id == other.stream_id:
        return bool(one.first_seq > other.first_seq)
    return bool((one.first_seen_ms, one.id) > (other.first_seen_ms, other.id))


def _insert(conn: Connection, probe_id: int, boot_id: bytes, now_ms: int, **values: Any) -> None:
    conn.execute(insert(boots).values(probe_id=probe_id, boot_id=boot_id, first_seen_ms=now_ms, standing=OK, **values))


def _interval(first: int, last: int, known: list[Anchor]) -> dict[str, int]:
    start, end = date(first, known), date(last, known)
    if start is None or end is None:
        return {}
    return {"start_ms": start.unix_ms, "end_ms": end.unix_ms, "error_ms": max(start.error_ms, end.error_ms)}


def _hold(conn: Connection, probe_id: int, rows: list[Any], now_ms: int, why: str) -> list[tuple[int, bytes]]:
    fresh = [row for row in rows if row.standing == OK]
    if not fresh:
        return []
    conn.execute(update(boots).where(boots.c.id.in_([row.id for row in fresh])).values(standing=HELD))
    number = conn.execute(select(func.count()).select_from(events)).scalar_one()
    detail = f"boot {rows[0].boot_id.hex()} {why}: {', '.join(row.boot_id.hex() for row in rows[1:4])}"
    conn.execute(
        insert(events).values(
            probe_id=probe_id, noticed_ms=now_ms, name="two_live_clones", n=number, detail=detail[:300]
        )
    )
    return [(probe_id, row.boot_id) for row in fresh]


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
