"""Several collectors on one PostgreSQL: who writes for a probe waits for whoever does, and each work has one taker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from banua_collector import db, journal, registry
from banua_collector.config import Limits
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.project.influx import InfluxProjection
from banua_collector.tables import batches, probes, todo
from banua_wire.signature import public_of
from tests.collector.fleet import NOW_MS, SECRET
from tests.collector.memory import MemoryTarget
from tests.collector.speech import message

if TYPE_CHECKING:
    from sqlalchemy import Engine

pytestmark = pytest.mark.real
NAMES = [f"p{number}" for number in range(1, 9)]


@pytest.fixture
def engine(postgres_engine: Engine) -> Engine:
    with postgres_engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, "63.01.01.2002", "one", "One")
        for number, name in enumerate(NAMES):
            registry.add_probe(conn, name, public_of(_secret(number)), now_ms=NOW_MS)
    return postgres_engine


def _secret(number: int) -> bytes:
    return SECRET if number == 0 else bytes([number]) * 32


def _collector(engine: Engine) -> Ingest:
    return Ingest(engine, Metrics(engine), Limits(), lambda: NOW_MS, lambda _: None)


def test_groups_with_the_same_probes_in_opposite_orders_are_all_journalled(engine: Engine) -> None:
    """Without one order of locks this ends in deadlocks, which the ingest would have to sit out."""
    failed: list[BaseException] = []

    def store(first_seq: int, order: list[int]) -> None:
        ingest = _collector(engine)
        try:
            for seq in range(first_seq, first_seq + 10):
                ingest.take([(message(seq, probe=NAMES[n], secret=_secret(n)), False) for n in order])
        except Exception as error:  # noqa: BLE001 (told by the assertion below)
            failed.append(error)

    numbers = list(range(len(NAMES)))
    threads = [
        threading.Thread(target=store, args=(1, numbers)),
        threading.Thread(target=store, args=(11, numbers[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    with db.reading(engine) as conn:
        assert conn.execute(select(func.count()).select_from(batches)).scalar() == 20 * len(NAMES)
        assert conn.execute(select(func.count()).select_from(todo)).scalar() == 20 * len(NAMES)


def test_a_correction_waits_for_the_batch_that_is_being_journalled(engine: Engine) -> None:
    """Else it would read what is due before that batch is, and the batch would keep its old place for good."""
    ingest = _collector(engine)
    journalled, corrected = threading.Event(), threading.Event()
    ingest._checkpoint = lambda point: (journalled.set(), time.sleep(1)) if point == "before_commit" else None  # type: ignore[assignment, func-returns-value]
    waited: list[bool] = []

    def correct() -> None:
        journalled.wait(30)
        with engine.begin() as conn:
            affected = registry.deploy(conn, "p1", "one", NOW_MS - 1000)[1]
            waited.append(conn.execute(select(func.count()).select_from(batches)).scalar() == 1)
            assert journal.mark_range(conn, affected, NOW_MS) == 1
        corrected.set()

    thread = threading.Thread(target=correct)
    thread.start()
    ingest.take([(message(1), False)])
    thread.join(30)
    assert waited == [True]
    assert corrected.is_set()


def test_what_one_projection_has_claimed_another_leaves(engine: Engine) -> None:
    ingest = _collector(engine)
    ingest.take([(message(1, probe=NAMES[n], secret=_secret(n)), False) for n in range(3)])
    with db.reading(engine) as conn:
        ids = list(conn.execute(select(probes.c.id).order_by(probes.c.id)).scalars())
    projection = InfluxProjection(engine, MemoryTarget(), lambda: NOW_MS)
    with db.Claim(engine, "influx") as other:
        assert other.take(ids[:2]) == ids[:2]
        with db.Claim(engine, "influx") as mine:
            assert mine.take(ids[:3]) == ids[2:3]
        assert not projection.project(ids[0])
        projection.project_plain()
        assert _due(engine) == set(ids[:2])
    assert projection.project(ids[0])
    projection.project_plain()
    assert _due(engine) == set()


def test_a_claim_dies_with_its_connection(engine: Engine) -> None:
    claim = db.Claim(engine, "influx").__enter__()
    assert claim.take([1]) == [1]
    assert claim._conn is not None
    claim._conn.invalidate()  # as when its process was killed
    with db.Claim(engine, "influx") as other:
        assert other.take([1]) == [1]


def _due(engine: Engine) -> set[int]:
    with db.reading(engine) as conn:
        return set(conn.execute(select(todo.c.probe_id)).scalars())


def test_a_month_begins_without_waiting_for_who_reads(engine: Engine) -> None:
    """An export reads batches for minutes; the turn of the month must not stop every collector until it ends."""
    done = threading.Event()

    def begin_month() -> None:
        db.ensure_month(engine, "2031-05")
        done.set()

    with db.reading(engine) as reader:
        reader.execute(select(func.count()).select_from(batches)).scalar()
        threading.Thread(target=begin_month).start()
        assert done.wait(20)
        with db.reading(engine) as other:
            assert other.execute(select(func.count()).select_from(batches)).scalar() == 0
