"""The metrics: complete from the first scrape, explained in the docs, and true to the database."""

import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, insert

from banua_collector.metrics import OUTCOMES, Metrics
from banua_collector.quarantine import WAYS_OUT
from banua_collector.tables import batches, probes, quarantine, refused, streams

_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def _samples(metrics: Metrics) -> Mapping[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def _use_all(metrics: Metrics) -> None:
    """Give every metric with labels a sample, so that its labels show."""
    metrics.rows.labels(kind="radio").inc()
    metrics.todo.labels(projection="influx").set(3)
    metrics.oldest_todo_seconds.labels(projection="influx").set(9)
    metrics.projection_errors.labels(what="timeout").inc()


def test_the_page_tells_every_metric_and_no_other(engine: Engine) -> None:
    _add_batch(engine)
    metrics = Metrics(engine)
    _use_all(metrics)
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in re.findall(
            r"^\| `(banua_\w+)` \| (\w+) \| ([^|]*)\| (.+) \|$", _PAGE.read_text(), re.MULTILINE
        )
    }
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
            family.documentation,
        )
        for family in metrics.registry.collect()
    }
    assert told == exposed


def test_the_page_tells_every_outcome() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \| (?!gauge|counter|histogram)", _PAGE.read_text(), re.MULTILINE)) == OUTCOMES


def test_every_outcome_is_there_before_anything_happened(engine: Engine) -> None:
    samples = _samples(Metrics(engine))
    assert {labels[0] for name, labels in samples if name == "banua_batches_total"} == set(OUTCOMES)
    assert samples["banua_batches_total", ("journalled",)] == 0
    assert {labels[0] for name, labels in samples if name == "banua_quarantine_batches"} == set(WAYS_OUT)
    assert samples["banua_quarantine_batches", ("conflict",)] == 0
    assert samples["banua_refused_points", ()] == 0


def test_what_the_database_knows_is_asked_at_each_scrape(engine: Engine) -> None:
    metrics = Metrics(engine)
    name = "banua_probe_last_received_timestamp_seconds"
    _add_batch(engine)
    with engine.begin() as conn:
        conn.execute(insert(probes).values(name="silent", simulated=False, added_ms=1))
    samples = _samples(metrics)
    assert samples[name, ("p1",)] == 1234.5
    assert (name, ("silent",)) not in samples
    assert samples["banua_quarantine_batches", ("unknown_key",)] == 1
    assert samples["banua_refused_points", ()] == 1


def _add_batch(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(insert(probes).values(id=7, name="p1", simulated=False, added_ms=1))
        conn.execute(insert(streams).values(id=1, probe_id=7, stream=b"s" * 8, stored_to=1, first_seen_ms=1))
        conn.execute(
            insert(batches).values(
                probe_id=7,
                stream_id=1,
                seq=1,
                hash=b"h",
                boot_id=b"b" * 16,
                rows=1,
                first_boottime_ms=1,
                last_boottime_ms=1,
                received_ms=1_234_500,
                message=b"m",
            )
        )
        conn.execute(
            insert(quarantine).values(
                probe_name="p1", topic="t", reason="unknown_key", detail="d", hash=b"q", received_ms=1, message=b"m"
            )
        )
        conn.execute(
            insert(refused).values(
                projection="influx", probe_id=7, batch_id=1, line="radio x=1 1", reason="r", noticed_ms=1
            )
        )
