"""A journal that is lost but for its files makes the same InfluxDB again, point by point."""

from __future__ import annotations

import csv
import hashlib
import io
import random
from typing import TYPE_CHECKING, Any

import pytest

from banua_collector import db, journal, registry
from banua_collector.project.influx import InfluxProjection
from banua_collector.project.target import InfluxTarget
from banua_collector.registry import Affected
from tests.collector.fleet import path, radio
from tests.collector.history import DAY, HOUR, LATER, OTHER_SECRET, VILLAGE, at, bring_in, export_all, picture
from tests.collector.speech import SECRET, anchor, message, register, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from banua_collector.verify import Message
    from tests.real.influxd import Influxd

pytestmark = pytest.mark.real

BATCHES = 300
PROBES = {"p1": SECRET, "p2": OTHER_SECRET}
START_MS = at("2026-03-03")


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[list[Engine]]:
    engines = [db.open_engine(f"sqlite:///{tmp_path}/{name}/banua.sqlite") for name in ("lost", "rebuilt")]
    for engine in engines:
        db.migrate(engine)
    yield engines
    for engine in engines:
        engine.dispose()


def fill(engine: Engine) -> None:
    """Two probes over three months: boots, moves, late batches, some undated rows, twins across batches."""
    chance = random.Random(11)
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, VILLAGE, "one", "Balai desa")
        registry.add_place(conn, VILLAGE, "two", "Masjid")
        for name, secret in PROBES.items():
            register(conn, name, secret)
            registry.deploy(conn, name, "one", START_MS, START_MS + 40 * DAY)
            registry.deploy(conn, name, "two", START_MS + 40 * DAY)
    came: list[Message] = []
    for seq in range(1, BATCHES // 2 + 1):
        for name, secret in PROBES.items():
            boot = seq // 50
            booted_ms = START_MS + boot * 30 * DAY
            boottime = (seq % 50) * 14 * HOUR + 1000
            rows = [radio(boottime + minute * 60_000, rsrp_dbm=-chance.randint(70, 120)) for minute in range(4)]
            rows.append(path(boottime, [chance.randint(9000, 90_000), None, 12_000]))
            if seq % 3:
                rows.append(anchor(boottime, booted_ms + boottime))
            late = chance.choice([0, 0, 0, 5 * DAY])
            received_ms = booted_ms + boottime + HOUR + late
            told: dict[str, Any] = {"probe": name, "secret": secret, "boot": bytes([boot, len(came) % 2]) * 8}
            came.append(message(seq, rows, received_ms=received_ms, **told))
    came.sort(key=lambda each: each.received_ms)
    for start in range(0, len(came), 25):
        with engine.begin() as conn:
            take(conn, *came[start : start + 25], now_ms=came[start].received_ms)


def project(engine: Engine, influxd: Influxd, bucket: str) -> None:
    target = InfluxTarget(influxd.url, influxd.org, bucket, influxd.token)
    projection = InfluxProjection(engine, target, lambda: LATER)
    while projection.step() is not None:
        pass
    target.close()


def points(influxd: Influxd, bucket: str) -> list[dict[str, Any]]:
    return influxd.query("SELECT * FROM /.*/ GROUP BY *", bucket)


def sorted_csv_sha256(rows: list[dict[str, Any]]) -> str:
    columns = sorted({name for row in rows for name in row})
    text = io.StringIO()
    csv.writer(text).writerows(sorted([[str(row.get(name)) for name in columns] for row in rows]))
    return hashlib.sha256(text.getvalue().encode()).hexdigest()


def test_the_points_of_a_rebuilt_journal_are_those_of_the_lost_one(
    influxd: Influxd, bucket: str, journals: list[Engine], tmp_path: Path
) -> None:
    lost, rebuilt = journals
    fill(lost)
    project(lost, influxd, bucket)
    paths, registered = export_all(lost, tmp_path / "archive")
    assert len(paths) >= 3

    assert bring_in(rebuilt, paths, registered)["journalled"] == BATCHES
    assert picture(rebuilt) == picture(lost)
    with rebuilt.begin() as conn:
        due = [journal.replay(conn, Affected(probe.id, 0, None), LATER) for probe in registry.list_probes(conn)]
    assert sum(due) == BATCHES
    other = influxd.create_bucket(f"{bucket}-rebuilt")
    project(rebuilt, influxd, other)

    before, after = points(influxd, bucket), points(influxd, other)
    assert len(before) > 1000
    assert sorted_csv_sha256(after) == sorted_csv_sha256(before)
