"""What the collector counts about itself, for Prometheus; `docs/metrics.md` explains each, and a test compares the two.

Counters and gauges are set where the thing happens. What the database knows anyway is asked of it at each scrape, so it
cannot drift from the truth.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select

from banua_collector import quarantine
from banua_collector.boots import HELD
from banua_collector.db import is_server, reading, size_bytes
from banua_collector.tables import batches, boots, probes, refused

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OUTCOMES: Final = (
    "journalled",
    "duplicate",
    "conflict",
    "quarantined",
    "quarantine_full",
    "bad_signature",
    "unknown_key",
    "key_revoked",
    "key_retired",
    "wrong_topic",
    "unreadable",
    "unstorable",
)
"""What can become of a batch that arrives; each is exposed from the start, at zero."""
_COMMIT_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Progress(Protocol):
    """What a projection has done since it began."""

    points_written: int
    points_refused: int
    ranges_deleted: int


class Metrics:
    """The metrics of one collector process, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.batches = Counter(
            "banua_batches", "Batches received, by what became of them", ["outcome"], registry=self.registry
        )
        self.rows = Counter("banua_rows", "Rows journalled, by kind", ["kind"], registry=self.registry)
        self.receipts = Counter("banua_receipts", "Receipts sent to probes", registry=self.registry)
        self.commit_seconds = Histogram(
            "banua_commit_seconds",
            "Time of a group commit of the journal",
            buckets=_COMMIT_SECONDS,
            registry=self.registry,
        )
        self.todo = Gauge(
            "banua_todo", "Batches that a projection has still to write", ["projection"], registry=self.registry
        )
        self.oldest_todo_seconds = Gauge(
            "banua_oldest_todo_seconds",
            "How long a projection's oldest work has been waiting; 0 when there is none",
            ["projection"],
            registry=self.registry,
        )
        self.points_written = Counter("banua_points_written", "Points that InfluxDB confirmed", registry=self.registry)
        self.points_refused = Counter(
            "banua_points_refused", "Points that InfluxDB will never take, kept with its reason", registry=self.registry
        )
        self.ranges_deleted = Counter(
            "banua_ranges_deleted", "Time ranges deleted from InfluxDB to be written anew", registry=self.registry
        )
        self.projection_errors = Counter(
            "banua_projection_errors",
            "Failed attempts of a projection, by what failed",
            ["what"],
            registry=self.registry,
        )
        self.connected = Gauge(
            "banua_connected", "1 while the collector is connected to the broker", registry=self.registry
        )
        self.group_batches = Gauge(
            "banua_group_batches", "Messages in the last commit; more wait in the broker", registry=self.registry
        )
        self._projected: dict[Counter, int] = {}
        self.registry.register(_FromDatabase(engine))
        for outcome in OUTCOMES:
            self.batches.labels(outcome)

    def projected(self, projection: Progress) -> None:
        """Bring the counters of the projection up to date."""
        for counter, total in (
            (self.points_written, projection.points_written),
            (self.points_refused, projection.points_refused),
            (self.ranges_deleted, projection.ranges_deleted),
        ):
            counter.inc(total - self._projected.get(counter, 0))
            self._projected[counter] = total

    def exposition(self) -> bytes:
        """Return all of it in the Prometheus text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


class _FromDatabase(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._folder = None if is_server(engine) else Path(str(engine.url.database)).parent

    def describe(self) -> Iterator[Metric]:
        yield _last_received()
        yield _quarantined()
        yield _refused()
        yield _held_boots()
        yield _database_bytes()
        yield _disk_free()

    def collect(self) -> Iterator[Metric]:
        newest = select(func.max(batches.c.received_ms)).where(batches.c.probe_id == probes.c.id).scalar_subquery()
        with reading(self._engine) as conn:
            received = conn.execute(select(probes.c.name, newest)).all()
            kept = quarantine.counts(conn)
            refused_points = conn.execute(select(func.count()).select_from(refused)).scalar_one()
            held = conn.execute(select(func.count()).where(boots.c.standing == HELD)).scalar_one()
            database_bytes = size_bytes(conn)
        last_received = _last_received()
        for name, received_ms in received:
            if received_ms is not None:
                last_received.add_metric([name], received_ms / 1000)
        yield last_received
        quarantined = _quarantined()
        for reason, count in sorted(kept.items()):
            quarantined.add_metric([reason], count)
        yield quarantined
        refused_now = _refused()
        refused_now.add_metric([], refused_points)
        yield refused_now
        yield _one(_held_boots(), held)
        yield _one(_database_bytes(), database_bytes)
        yield _one(_disk_free(), None if self._folder is None else shutil.disk_usage(self._folder).free)


def _one(family: GaugeMetricFamily, value: float | None) -> GaugeMetricFamily:
    if value is not None:
        family.add_metric([], value)
    return family


def _held_boots() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "banua_held_boots", "Boots of two live devices under one name, held until a person decides"
    )


def _database_bytes() -> GaugeMetricFamily:
    return GaugeMetricFamily("banua_database_bytes", "Size of the journal's database")


def _disk_free() -> GaugeMetricFamily:
    return GaugeMetricFamily("banua_disk_free_bytes", "Free bytes where an SQLite journal is; absent with PostgreSQL")


def _last_received() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "banua_probe_last_received_timestamp_seconds",
        "When the newest batch of a probe was received (Unix time); absent before the first",
        labels=["probe"],
    )


def _quarantined() -> GaugeMetricFamily:
    return GaugeMetricFamily("banua_quarantine_batches", "Batches in quarantine, by reason", labels=["reason"])


def _refused() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "banua_refused_points", "Points that InfluxDB has refused and that are kept with its reason"
    )
