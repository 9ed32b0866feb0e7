"""A small fleet for the tests of whatever shows it: batches journalled as the collector does it, with chosen times."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, insert, select

from banua_collector import boots, registry
from banua_collector.tables import anchors, batches, streams
from banua_wire import batch
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row

NOW_MS: Final = 1_760_000_000_000  # 2025-10-09T08:53:20Z, 16:53:20 WITA
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
SECRET: Final = b"k" * 32
BOOT: Final = b"b" * 16


def radio(boottime_ms: int, **values: float | str) -> Row:
    """A minute with service, unless `values` say otherwise."""
    usual: dict[str, int | float | str] = {
        "modem": "m1",
        "polls": 6,
        "polls_registered": 6,
        "state": "registered",
        "rat": "lte",
        "plmn": "51010",
        "rsrp_dbm": -95.5,
        "rsrq_db": -11,
    }
    return Row("radio", boottime_ms, {**usual, **values})


def path(boottime_ms: int, rtt_us: list[int | float | None]) -> Row:
    """A train of round trips."""
    return Row(
        "path",
        boottime_ms,
        {"target": "collector", "modem": "m1", "method": "tcp", "outcome": "measured", "rtt_us": rtt_us},
    )


def board(boottime_ms: int, **values: float | str) -> Row:
    """A board in good order."""
    usual: dict[str, int | float | str] = {"uptime_s": 3600, "temperature_c": 48.5, "mains": 1, "outbox_waiting": 0}
    return Row("board", boottime_ms, {**usual, **values})


def web(boottime_ms: int) -> Row:
    """A page that was got as expected."""
    return Row("web", boottime_ms, {"target": "w", "outcome": "measured", "status": 204, "ok": 1, "portal": 0})


def wifi(boottime_ms: int, **values: float | str) -> Row:
    """A scan, or with a bssid one network of it."""
    return Row("wifi", boottime_ms, {"interface": "wlan0", "outcome": "measured", **values})


def add_batch(
    conn: Connection, probe: str, seq: int, rows: Iterable[Row], received_ms: int, *, boot_id: bytes = BOOT
) -> None:
    """Journal one batch of `probe`, with its boot and its stream where they are new."""
    rows = list(rows)
    probe_id = registry.probe_named(conn, probe).id
    message = batch.seal(SECRET, Envelope(probe, b"s" * 8, seq, boot_id, SCHEMA), rows)
    stream_id = conn.execute(select(streams.c.id).where(streams.c.probe_id == probe_id)).scalar()
    if stream_id is None:
        first = insert(streams).values(probe_id=probe_id, stream=b"s" * 8, stored_to=0, first_seen_ms=received_ms)
        stream_id = conn.execute(first.returning(streams.c.id)).scalar_one()
    times = [row.boottime_ms for row in rows]
    conn.execute(
        insert(batches).values(
            probe_id=probe_id,
            stream_id=stream_id,
            seq=seq,
            hash=batch.digest(message),
            boot_id=boot_id,
            rows=len(rows),
            first_boottime_ms=min(times),
            last_boottime_ms=max(times),
            received_ms=received_ms,
            message=message,
        )
    )
    told = [row for row in rows if row.kind == "clock"]
    for row in told:
        batch_id = conn.execute(select(batches.c.id).where(batches.c.hash == batch.digest(message))).scalar_one()
        place = {"probe_id": probe_id, "boot_id": boot_id, "batch_id": batch_id, "boottime_ms": row.boottime_ms}
        conn.execute(insert(anchors).values(place | row.values))
    span = boots.Span(stream_id, seq, (min(times), max(times)))
    boots.batches_came(conn, [boots.Came(probe_id, boot_id, (), [span], received_ms)])


def clock(boottime_ms: int, unix_ms: int) -> Row:
    """An anchor."""
    return Row("clock", boottime_ms, {"unix_ms": unix_ms, "error_ms": 20, "source": "ntp"})


def add_probe(conn: Connection, name: str, place: str | None = None, *, simulated: bool = False) -> None:
    """Register a probe with a key of its own, standing at `place` since long ago."""
    registry.add_probe(conn, name, name.encode().ljust(32, b"."), now_ms=1, simulated=simulated)
    if place is not None:
        registry.deploy(conn, name, place, 1)
