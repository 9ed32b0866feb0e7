"""Points move, they never double: a late anchor, a deployment registered or corrected later, on a real InfluxDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from banua_collector import cli, journal, registry
from banua_collector.config import Limits
from banua_collector.db import migrate, open_engine
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.project.influx import InfluxProjection
from banua_collector.project.target import InfluxTarget
from banua_collector.verify import Message
from banua_wire import batch, signature
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.influxd import Influxd

pytestmark = pytest.mark.real

NAME = "kalsel-0001"
SECRET = bytes(range(32))
BOOT = b"B" * 16
T0 = 1_790_000_000_000


class Chain:
    """Sealed batches in, InfluxDB points out; no broker between."""

    def __init__(self, folder: Path, influxd: Influxd, bucket: str) -> None:
        self.influxd, self.bucket, self.seq = influxd, bucket, 0
        self.engine = open_engine(f"sqlite:///{folder}/journal.sqlite")
        migrate(self.engine)
        with self.engine.begin() as conn:
            registry.load_villages(conn)
            registry.add_probe(conn, NAME, signature.public_of(SECRET), now_ms=0)
        self.ingest = Ingest(self.engine, Metrics(self.engine), Limits(), lambda: T0, lambda _: None)
        self.target = InfluxTarget(influxd.url, influxd.org, bucket, influxd.token)
        self.projection = InfluxProjection(self.engine, self.target, lambda: T0)

    def send(self, *rows: Row) -> None:
        self.seq += 1
        message = batch.seal(SECRET, Envelope(NAME, b"S" * 8, self.seq, BOOT, SCHEMA), rows)
        self.ingest.take([(Message(f"banua/v1/{NAME}/batch", message, T0), False)])

    def points(self, kind: str = "radio") -> list[dict[str, Any]]:
        while self.projection.step() is not None:
            pass
        return self.influxd.query(f"SELECT * FROM {kind} GROUP BY *", self.bucket)  # noqa: S608 (a kind of ours)


@pytest.fixture
def chain(tmp_path: Path, influxd: Influxd, bucket: str) -> Iterator[Chain]:
    chain = Chain(tmp_path, influxd, bucket)
    yield chain
    chain.target.close()
    chain.engine.dispose()


def radio(boottime_ms: int, rsrp_dbm: float, modem: str = "sim0") -> Row:
    return Row("radio", boottime_ms, {"modem": modem, "rsrp_dbm": rsrp_dbm, "plmn": "51010"})


def anchor(boottime_ms: int, unix_ms: int, error_ms: int = 10) -> Row:
    return Row("clock", boottime_ms, {"unix_ms": unix_ms, "error_ms": error_ms, "source": "ntp"})


def times(points: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return sorted((point["time"] // 1_000_000 - T0, point["rsrp_dbm"]) for point in points)


def test_an_undated_row_is_not_written_and_a_late_anchor_moves_the_others(chain: Chain) -> None:
    chain.send(radio(60_000, -100))
    assert chain.points() == [], "a row without a date is nowhere"
    chain.send(anchor(120_000, T0 + 120_000), radio(90_000, -101))
    assert times(chain.points()) == [(60_000, -100), (90_000, -101)]
    # a clock that is 50 ms ahead after 120 s: the rows between the anchors move, the one before the first does not
    chain.send(anchor(0, T0 - 60), radio(30_000, -102))
    assert times(chain.points()) == [(29_955, -102), (59_970, -100), (89_985, -101)]
    assert len(chain.points("clock")) == 2


def test_two_modems_of_one_operator_in_one_minute_are_two_series(chain: Chain) -> None:
    chain.send(anchor(0, T0), radio(60_000, -100, "sim0"), radio(60_000, -110, "sim1"))
    found = chain.points()
    assert sorted((p["modem"], p["rsrp_dbm"], p["time"] // 1_000_000 - T0) for p in found) == [
        ("sim0", -100, 60_000),
        ("sim1", -110, 60_000),
    ]


def test_rows_that_fall_on_one_millisecond_both_stay(chain: Chain) -> None:
    # 10 s of boottime in 1 ms of wall time: a stepped clock. Both rows are dated to the same millisecond.
    chain.send(anchor(0, T0, 2000), anchor(10_000, T0 + 1, 2000), radio(4_000, -100), radio(4_001, -101))
    chain.send(Row("event", 1, {"name": "start", "n": 1, "detail": "x"}))
    with chain.engine.begin() as conn:  # its boot is over: nothing gets better
        conn.exec_driver_sql(
            "INSERT INTO boots (probe_id, boot_id, first_seen_ms, standing) VALUES (1, x'43', 9999999999999, 'ok')"
        )
    found = chain.points()
    assert sorted(point["rsrp_dbm"] for point in found) == [-101, -100]
    assert len({point["time"] for point in found}) == 2


def test_a_restored_journal_clears_what_it_has_forgotten(chain: Chain, tmp_path: Path) -> None:
    """The points of batches that a restored journal does not know are taken away; what it knows stands as before."""
    chain.send(anchor(0, T0), radio(60_000, -100))
    forgotten = f"radio,probe={NAME},modem=sim0 rsrp_dbm=-99 {(T0 + 120_000) * 1_000_000}"
    chain.target.write([forgotten])
    assert len(chain.points()) == 2
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(chain.influxd.token)
    config = tmp_path / "collector.toml"
    config.write_text(
        f'state_dir = "{tmp_path}"\n[database]\nurl = "sqlite:///{tmp_path}/journal.sqlite"\n'
        '[broker]\nhost = "127.0.0.1"\ntls = false\n'
        f'[influx]\nurl = "{chain.influxd.url}"\norg = "{chain.influxd.org}"\n'
        f'bucket = "{chain.bucket}"\ntoken_file = "{token}"\n'
    )
    assert cli.main(["journal", "restored", "--config", str(config)]) == 0
    assert times(chain.points()) == [(60_000, -100)]


def test_a_deployment_registered_and_corrected_afterwards_moves_the_points(chain: Chain) -> None:
    chain.send(anchor(0, T0), radio(60_000, -100), radio(120_000, -101))
    assert [point.get("place") for point in chain.points()] in ([None, None], ["", ""])
    with chain.engine.begin() as conn:
        registry.add_place(conn, "63.01.01.2001", "satu", "Satu", None, None)
        registry.add_place(conn, "63.02.01.2001", "dua", "Dua", None, None)
        number, affected = registry.deploy(conn, NAME, "satu", T0)
        journal.mark_range(conn, affected, T0)
    assert [(p["place"], p["regency"]) for p in chain.points()] == [("satu", "63.01")] * 2
    with chain.engine.begin() as conn:
        journal.mark_range(conn, registry.correct_deployment(conn, number, from_ms=T0 + 100_000, place="dua"), T0)
    found = sorted(chain.points(), key=lambda point: point["time"])
    assert [(p.get("place") or None, p["rsrp_dbm"]) for p in found] == [(None, -100), ("dua", -101)]
