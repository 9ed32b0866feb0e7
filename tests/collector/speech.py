"""What probe p1 says, as it arrives: sealed, judged and journalled by the collector's own code."""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection

from banua_collector import boots, journal, registry
from banua_collector.verify import Boot, Message, Refused, Unreadable, Verified, judge
from banua_wire import batch, signature
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row
from tests.collector.fleet import NOW_MS, radio

SECRET: Final = b"k" * 32
STREAM: Final = b"s" * 8
OTHER_STREAM: Final = b"t" * 8
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
ROOM: Final = 1_000_000


def register(conn: Connection, name: str = "p1", secret: bytes = SECRET) -> int:
    """Register a probe with the key of `secret`."""
    return registry.add_probe(conn, name, signature.public_of(secret), now_ms=1)


def message(
    seq: int = 1,
    rows: Iterable[Row] | None = None,
    *,
    probe: str = "p1",
    speaker: str | None = None,
    secret: bytes = SECRET,
    stream: bytes = STREAM,
    boot: bytes = A,
    schema: int = SCHEMA,
    received_ms: int = NOW_MS,
) -> Message:
    """One batch on the wire, published under `speaker` (by default its own name)."""
    envelope = Envelope(probe, stream, seq, boot, schema)
    payload = batch.seal(secret, envelope, [radio(1000 * seq)] if rows is None else rows)
    return Message(f"banua/v1/{speaker or probe}/batch", payload, received_ms)


def anchor(boottime_ms: int, unix_ms: int, error_ms: int = 20) -> Row:
    """`boottime_ms` was `unix_ms` ± `error_ms`."""
    return Row("clock", boottime_ms, {"unix_ms": unix_ms, "error_ms": error_ms, "source": "ntp"})


def judged(conn: Connection, came: Message) -> Verified | Refused:
    """Return what the collector thinks of `came`, by what its database knows."""

    def boot_of(probe: str, boot_id: bytes) -> Boot:
        row = boots.boot_row(conn, registry.probe_named(conn, probe).id, boot_id)
        if row is None:
            return Boot(None, None)
        return Boot(None if row.start_ms is None else row.start_ms - row.first_boottime_ms, row.first_seen_ms)

    judgement = judge(came, lambda name: registry.keys_of(conn, name), boot_of)
    assert not isinstance(judgement, Unreadable), judgement.detail
    return judgement


def take(conn: Connection, *came: Message, now_ms: int = NOW_MS, room: int = ROOM) -> journal.Committed:
    """Journal a group of messages as one commit does."""
    items: Sequence[Verified | Refused] = [judged(conn, each) for each in came]
    return journal.store(conn, items, now_ms=now_ms, quarantine_max_bytes=room)
