"""What could not be believed or read: kept whole with its reason, and judged again when a person says so.

Nothing leaves quarantine but into the journal, in the commit that journals it. There is no way to drop a message:
it is evidence, a repeated offender costs one row, and what strangers can fill is limited by ``quarantine_max_mb``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, select

from banua_collector import journal
from banua_collector.clock import month_of
from banua_collector.db import ensure_month, reading
from banua_collector.errors import RegistryError
from banua_collector.speakers import Speakers
from banua_collector.tables import quarantine, refused
from banua_collector.verify import Message, Unreadable

WAYS_OUT: Final = {
    "unknown_key": "register the probe, then replay",
    "bad_signature": "add the key that it was signed with to the probe, if it is the probe's own, then replay",
    "wrong_topic": "none: it was signed by one probe and published by another",
    "key_revoked": "none: its key was revoked before it came",
    "key_retired": "none, unless an anchor shows that its boot began before its key was retired: then replay",
    "conflict": "the probe seals it anew, under another stream; it is replayed only by its ID",
    "quarantined": "update the collector to a version that can read it, then replay",
}
"""What each reason's way into the journal is."""
_NEVER_BY_ITSELF: Final = "conflict"
_GROUP: Final = 100
"""Messages in one commit."""


def counts(conn: Connection) -> dict[str, int]:
    """Return how many messages are in quarantine, by reason; zero for a reason of which there are none."""
    found = select(quarantine.c.reason, func.count().label("n")).group_by(quarantine.c.reason)
    return dict.fromkeys(WAYS_OUT, 0) | {row.reason: row.n for row in conn.execute(found)}


def listed(conn: Connection, reason: str | None = None, probe: str | None = None) -> Sequence[Row[Any]]:
    """Return the messages, newest first; those of one reason, of one name."""
    found = select(quarantine).order_by(quarantine.c.id.desc())
    for column, wanted in ((quarantine.c.reason, reason), (quarantine.c.probe_name, probe)):
        found = found if wanted is None else found.where(column == wanted)
    return conn.execute(found).all()


def one(conn: Connection, message_id: int) -> Row[Any]:
    """Return one message; RegistryError when there is none of this id."""
    row = conn.execute(select(quarantine).where(quarantine.c.id == message_id)).first()
    if row is None:
        raise RegistryError(f"there is no message {message_id} in quarantine")
    return row


def replay(
    engine: Engine, now_ms: int, *, ids: Sequence[int] = (), reason: str | None = None
) -> Counter[tuple[str, str]]:
    """Judge messages again, each with the time it came at: those named, else those of a reason, else all.

    Return how often which reason became which outcome. A conflict is judged again only by its id: its seq is another
    batch's, and which of the two is the truth is not for a command over many to say.
    """
    chosen = _chosen(engine, ids, reason)
    outcomes = Counter[tuple[str, str]]()
    for start in range(0, len(chosen), _GROUP):
        group = chosen[start : start + _GROUP]
        with reading(engine) as conn:
            came = conn.execute(select(quarantine.c.received_ms).where(quarantine.c.id.in_(group))).scalars().all()
        for month in {month_of(received_ms) for received_ms in came}:
            ensure_month(engine, month)
        with engine.begin() as conn:
            outcomes += _again(conn, group, now_ms)
    return outcomes


def _chosen(engine: Engine, ids: Sequence[int], reason: str | None) -> Sequence[int]:
    with reading(engine) as conn:
        if ids:
            return [one(conn, message_id).id for message_id in dict.fromkeys(ids)]
        which: ColumnElement[bool] = quarantine.c.reason != _NEVER_BY_ITSELF
        if reason is not None:
            which &= quarantine.c.reason == reason
        return conn.execute(select(quarantine.c.id).where(which).order_by(quarantine.c.id)).scalars().all()


def _again(conn: Connection, ids: Sequence[int], now_ms: int) -> Counter[tuple[str, str]]:
    rows = conn.execute(select(quarantine).where(quarantine.c.id.in_(ids)).order_by(quarantine.c.id)).all()
    speakers = Speakers(conn, (row.topic for row in rows))
    outcomes = Counter[tuple[str, str]]()
    for row in rows:  # one by one: a batch may tell what the next one's judgement needs, such as an anchor of its boot
        item = speakers.judge(Message(row.topic, bytes(row.message), row.received_ms))
        if isinstance(item, Unreadable):
            outcomes[row.reason, "unreadable"] += 1
            continue
        (outcome,) = journal.store(conn, [item], now_ms=now_ms, quarantine_max_bytes=0).outcomes
        outcomes[row.reason, outcome] += 1
    return outcomes


# --- points that InfluxDB refuses ------------------------------------------------------------------------------------


def refusals(conn: Connection, probe_id: int | None = None) -> Sequence[Row[Any]]:
    """Return the points that InfluxDB will never take, newest first; those of one probe."""
    found = select(refused).order_by(refused.c.id.desc())
    return conn.execute(found if probe_id is None else found.where(refused.c.probe_id == probe_id)).all()


def refusal(conn: Connection, point_id: int) -> Row[Any]:
    """Return one point; RegistryError when there is none of this id."""
    row = conn.execute(select(refused).where(refused.c.id == point_id)).first()
    if row is None:
        raise RegistryError(f"there is no refused point {point_id}")
    return row


def write_refused_again(conn: Connection, ids: Sequence[int], now_ms: int) -> tuple[int, int]:
    """Make the batches of refused points due again, of all or those named; return how many, and how many are moved out.

    What InfluxDB then takes leaves the table, what it refuses again stays, as it says why then.
    """
    rows = [refusal(conn, point_id) for point_id in ids] if ids else refusals(conn)
    by_probe: dict[int, set[int]] = {}
    for row in rows:
        by_probe.setdefault(row.probe_id, set()).add(row.batch_id)
    due = sum(journal.due_batches(conn, probe_id, sorted(mine), now_ms) for probe_id, mine in sorted(by_probe.items()))
    return due, sum(map(len, by_probe.values())) - due
