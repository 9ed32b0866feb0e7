"""Half a year of a small fleet, in a journal: what the tests of archives move out, bring in and compare."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, select

from banua_collector import archive, db, months, registry
from banua_collector.clock import month_of
from banua_collector.project.influx import InfluxProjection
from banua_collector.tables import anchors, batches, boots, events, probes, quarantine, seen, streams
from banua_collector.verify import Message
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row
from tests.collector.fleet import radio
from tests.collector.memory import MemoryTarget
from tests.collector.speech import OTHER_STREAM, B, C, anchor, message, register, take

VILLAGE: Final = "63.01.01.2002"
DAY: Final = 86_400_000
HOUR: Final = 3_600_000
OTHER_SECRET: Final = b"o" * 32
STRANGER: Final = b"x" * 32
MONTHS: Final = ("2026-03", "2026-04", "2026-05")


def at(text: str) -> int:
    """Return the ms of an ISO date, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


LATER: Final = at("2026-10-09")
"""When every month of the history has been over for 90 days, and the newest batch has come."""


def hear(engine: Engine, *came: Message) -> list[str]:
    """Journal messages, each in a commit of its own, at the time it came."""
    outcomes: list[str] = []
    for each in came:
        db.ensure_month(engine, month_of(each.received_ms))
        with engine.begin() as conn:
            outcomes += take(conn, each, now_ms=each.received_ms).outcomes
    return outcomes


def fill(engine: Engine) -> None:
    """Two probes, two places, three boots, backfill, a loss, an undated boot, one of each sort in quarantine."""
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, VILLAGE, "one", "Balai desa", -3.7, 114.6)
        registry.add_place(conn, VILLAGE, "two", "Masjid")
        register(conn)
        register(conn, "p2", OTHER_SECRET)
        registry.deploy(conn, "p1", "one", at("2026-03-01"), at("2026-04-10"))
        registry.deploy(conn, "p1", "two", at("2026-04-10"), None, power_source="PLTS")
    start, begun = at("2026-03-10"), at("2026-05-02")
    for seq, (day, received) in enumerate(
        [(0, "2026-03-10"), (1, "2026-03-11"), (30, "2026-04-09"), (32, "2026-04-11")], 1
    ):
        boottime = day * DAY + 1000
        rows = [anchor(boottime, start + boottime), radio(boottime + 5, rsrp_dbm=-90.5 - seq), radio(boottime + HOUR)]
        hear(engine, message(seq, rows, received_ms=at(received) + 2 * HOUR))
    event = Row("event", 9, {"name": "previous_stream", "n": 1, "detail": "x"})
    lost = Row("lost", 10, {"stream": b"s".hex() * 8, "from_seq": 5, "to_seq": 6, "reason": "evicted"})
    hear(
        engine,
        message(1, [anchor(8, begun), radio(9), event, lost], stream=OTHER_STREAM, boot=B, received_ms=begun + HOUR),
        message(7, [radio(33 * DAY)], received_ms=begun + 2 * HOUR),  # backfill of the first boot
        message(8, [], received_ms=begun + 3 * HOUR),
        message(1, [radio(70)], probe="p2", secret=OTHER_SECRET, boot=C, received_ms=at("2026-04-20")),
        *quarantined(),
        message(2, [anchor(150 * DAY, begun + 150 * DAY)], stream=OTHER_STREAM, boot=B, received_ms=LATER - DAY),
    )


def quarantined() -> list[Message]:
    """What nobody can believe or read yet: a stranger, a foreign signature, a conflict, a newer schema."""
    return [
        message(1, probe="p9", secret=STRANGER, received_ms=at("2026-03-12")),
        message(90, secret=STRANGER, received_ms=at("2026-04-12")),
        message(1, [radio(77)], received_ms=at("2026-04-13")),
        message(40, [radio(80)], schema=SCHEMA + 1, received_ms=at("2026-05-13")),
    ]


def project(engine: Engine, target: MemoryTarget | None = None) -> dict[tuple[str, int], str]:
    """Project until nothing is due and return all that stands."""
    target = target or MemoryTarget()
    projection = InfluxProjection(engine, target, lambda: LATER)
    while projection.step() is not None:
        pass
    return target.points


def nothing(_: str) -> None:
    """Reach a checkpoint, or hear of progress."""


def bring_in(engine: Engine, paths: list[Path], registry_file: Path | None = None) -> dict[str, int]:
    return dict(months.bring_in(engine, paths, registry_file, now_ms=LATER, tell=nothing, checkpoint=nothing))


def export_all(engine: Engine, folder: Path) -> tuple[list[Path], Path]:
    """Export every month that has batches; return the files and the registry."""
    with db.reading(engine) as conn:
        found = sorted({month_of(ms) for ms in conn.execute(select(batches.c.received_ms)).scalars()})
    paths = [months.export(engine, month, folder).path for month in found]
    return paths, folder / archive.read_manifest(paths[-1]).registry


def picture(engine: Engine) -> dict[str, list[Any]]:
    """Return what a journal holds, by names and not by ids, sorted."""
    with db.reading(engine) as conn:
        probe = {row.id: row.name for row in conn.execute(select(probes))}
        stream = {row.id: (probe[row.probe_id], row.stream.hex()) for row in conn.execute(select(streams))} | {
            None: None
        }

        def named(row: Any, *but: str) -> list[Any]:
            values = {name: value for name, value in row.items() if name not in {"id", "batch_id", *but}}
            if "probe_id" in values:
                values["probe_id"] = probe[values["probe_id"]]
            if "stream_id" in values:
                values["stream_id"] = stream[values["stream_id"]]
            return sorted((name, repr(value)) for name, value in values.items())

        found: dict[str, list[Any]] = {}
        for table, but in (
            (batches, ()),
            (anchors, ()),
            (boots, ()),
            (seen, ("month",)),  # of a lost seq it is that of whoever declared it first
            (quarantine, ()),
            (streams, ("first_seen_ms",)),
        ):
            rows = conn.execute(select(table)).mappings()
            found[table.name] = sorted(named(row, *but) for row in rows)
        told = conn.execute(select(events).where(events.c.batch_id.is_not(None))).mappings()
        found["events"] = sorted(named(row) for row in told)
        return found


def rows_sha256(engine: Engine) -> str:
    """Return the sum over the canonical rows of the whole journal."""
    with db.reading(engine) as conn:
        sums = [archive.canonical(bytes(found))[1] for found in conn.execute(select(batches.c.message)).scalars()]
    return f"{sum(sums) % (1 << 256):064x}"


def standing(engine: Engine) -> int:
    """Return how many batches are in the journal."""
    with db.reading(engine) as conn:
        return len(conn.execute(select(batches.c.id)).all())
