"""Boots of a probe: when each ran, and whether two of them ran at once.

One probe has one running boot. Two whose times overlap beyond their errors, or an older one that is born again after
a newer one was, are two devices under one name (a copied card): both are held from every projection until a person
decides.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update

from banua_collector.dating import Anchor, date, in_order
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


def anchors_of(conn: Connection, probe_id: int, boot_id: bytes, *, but: Collection[int] = ()) -> list[Anchor]:
    """Return the anchors of a boot that count, sorted; those that the batches `but` brought left out."""
    found = select(anchors.c.boottime_ms, anchors.c.error_ms, anchors.c.unix_ms).where(
        anchors.c.probe_id == probe_id, anchors.c.boot_id == boot_id
    )
    if but:
        found = found.where(anchors.c.batch_id.not_in(but))
    return in_order(Anchor(*row) for row in conn.execute(found))


def born(conn: Connection, probe_id: int, boot_id: bytes, came_ms: int) -> list[bytes]:
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


def batch_came(conn: Connection, probe_id: int, boot_id: bytes, span: Span, now_ms: int) -> bool:
    """Note a journalled batch of a boot; return whether it is the first of that boot."""
    row = boot_row(conn, probe_id, boot_id)
    if row is None:
        _insert(conn, probe_id, boot_id, now_ms)
        row = boot_row(conn, probe_id, boot_id)
    if row is None:  # inserted in this very transaction
        raise AssertionError("boot row is missing")
    is_new = row.stream_id is None
    values: dict[str, Any] = {}
    if span.boottimes_ms is not None:
        first = _least(row.first_boottime_ms, span.boottimes_ms[0])
        last = max(row.last_boottime_ms or 0, span.boottimes_ms[1])
        values = {"first_boottime_ms": first, "last_boottime_ms": last}
        values |= _interval(conn, probe_id, boot_id, first, last)
    if is_new:
        values |= {"stream_id": span.stream_id, "first_seq": span.seq}
    elif row.stream_id == span.stream_id:
        values["first_seq"] = _least(row.first_seq, span.seq)
    if values:
        conn.execute(update(boots).where(boots.c.id == row.id).values(**values))
    return is_new


def overlapping(conn: Connection, probe_id: int, boot_id: bytes, now_ms: int) -> list[bytes]:
    """Hold the boots that ran while `boot_id` did, beyond all errors, and itself; return those that changed."""
    row = boot_row(conn, probe_id, boot_id)
    if row is None or row.start_ms is None:
        return []
    error = boots.c.error_ms + row.error_ms
    others = conn.execute(
        select(boots).where(
            boots.c.probe_id == probe_id,
            boots.c.id != row.id,
            boots.c.start_ms + error < row.end_ms,
            boots.c.end_ms - error > row.start_ms,
        )
    ).all()
    return _hold(conn, probe_id, [row, *others], now_ms, "runs while another boot does") if others else []


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


def _interval(conn: Connection, probe_id: int, boot_id: bytes, first: int, last: int) -> dict[str, int]:
    known = anchors_of(conn, probe_id, boot_id)
    start, end = date(first, known), date(last, known)
    if start is None or end is None:
        return {}
    return {"start_ms": start.unix_ms, "end_ms": end.unix_ms, "error_ms": max(start.error_ms, end.error_ms)}


def _hold(conn: Connection, probe_id: int, rows: list[Any], now_ms: int, why: str) -> list[bytes]:
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
    return [row.boot_id for row in fresh]


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
