"""Disks that are full, and files that are torn: what was receipted stays, and what is lost is said."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.disk import TinyDisk
from tests.faults.harness import Settings, World
from tests.faults.journals import SqliteJournal, on
from tests.system.rig import rows, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.real.influxd import Influxd

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

FULL_S = 8
FIRST = "kalsel-0001"
TORN = ("kalsel-0002", "kalsel-0003", "kalsel-0004")


@pytest.mark.root
def test_full_disks_of_probes_and_collector_lose_nothing(
    tmp_path: Path, authority: Authority, influxd: Influxd, bucket: str, seed: int
) -> None:
    """An outbox and the collector's SQLite, each on two megabytes that others fill, until somebody makes room."""
    with TinyDisk(tmp_path / "probe") as small, TinyDisk(tmp_path / "collector") as large:
        settings = Settings(state_of={FIRST: small.folder / "state"})
        journal = SqliteJournal(large.folder)
        with World(tmp_path, authority, (influxd, bucket), journal, seed, settings) as world:
            world.begin()
            small.fill()
            large.fill()
            wait_for("a probe that says so", lambda: "disk is full" in world.rig.log("load"))
            wait_for("a collector that says so", lambda: "disk is full" in world.rig.log("collector"))
            stored = world.count("batches")
            time.sleep(FULL_S)
            assert world.count("batches") == stored, "there was room"
            kept = rows(world.outbox(FIRST), "SELECT count(*) FROM batches")
            small.make_room("32m")
            large.make_room("32m")
            wait_for("the journal to go on", lambda: world.count("batches") > stored)
            wait_for(
                "the probe to go on",
                lambda: rows(world.outbox(FIRST), "SELECT count(*) FROM batches") > kept,
                within_s=60,
            )
            world.settle()
            world.compare()


@pytest.fixture
def world_before(world: World) -> World:
    """Leave a load with batches that nobody has receipted, its outboxes closed."""
    world.begin()
    world.down("collector")
    time.sleep(3)
    return world


@on(SqliteJournal)
def test_a_torn_outbox_is_moved_aside_and_what_was_receipted_stays(world_before: World) -> None:
    """Bytes of the closed file are overwritten: its probes begin a new stream and say why, the others go on."""
    world = world_before
    world.rig.kill("load", signal.SIGTERM)
    world.look()
    excused = {name: world.unreceipted(name) for name in TORN}
    streams = {name: stream_of(world, name) for name in TORN}
    rng = random.Random(world.seed)
    for name in TORN:
        tear(world.outbox(name), rng)
    world.start_load()
    world.up("collector")
    for name in TORN:
        world.forget_outbox(name)
        wait_for("the damaged file aside", world.outbox(name).with_suffix(".damaged-1").exists)
    wait_for("who says so", lambda: who_told(world, "outbox_damaged") >= set(TORN))
    assert all(stream_of(world, name) != streams[name] for name in TORN), "numbering begins a new stream"
    world.settle()
    evidence = world.evidence()
    for lost, gone in excused.values():
        assert lost, "a batch waits in the file that is torn, or the tear shows nothing"
        evidence.excused_batches |= lost
        evidence.excused |= gone
    world.compare(evidence)
    assert who_told(world, "outbox_damaged") == set(TORN), "who lost something says so, and nobody else"


@on(SqliteJournal)
def test_an_outbox_whose_last_commits_are_torn_off_begins_a_new_stream(world_before: World) -> None:
    """The write-ahead log loses its end, so the outbox is older than what the collector has of it."""
    world = world_before
    world.up("collector")
    known = world.count("batches")
    wait_for("receipts", lambda: world.count("batches") > known + 100)
    world.kill_load()
    excused = {name: world.unreceipted(name) for name in TORN}
    for name in TORN:
        log = world.outbox(name).with_name("outbox.db-wal")
        size = log.stat().st_size
        with log.open("r+b") as out:
            out.seek(size * 3 // 4)
            out.write(random.Random(world.seed).randbytes(size - size * 3 // 4))
    world.start_load()
    wait_for("the new streams", lambda: who_told(world, "previous_stream") >= set(TORN))
    world.settle()
    evidence = world.evidence()
    evidence.rolled_back = frozenset(TORN)
    for lost, gone in excused.values():
        evidence.excused_batches |= lost
        evidence.excused |= gone
    world.compare(evidence)


def who_told(world: World, event: str) -> set[str]:
    """Return the probes of which the journal has such an event."""
    query = "SELECT p.name, e.name FROM events e JOIN probes p ON p.id = e.probe_id"
    return {probe for probe, told in world.journal.rows(query) if told == event}


def stream_of(world: World, name: str) -> str:
    """Return the stream that an outbox seals."""
    [(stream,)] = rows(world.outbox(name), "SELECT value FROM meta WHERE name = 'stream'")
    return str(stream.hex())


def tear(file: Path, rng: random.Random) -> None:
    """Overwrite a quarter of the file, from its second page on, with noise."""
    size = file.stat().st_size
    with file.open("r+b") as out:
        out.seek(4096)
        out.write(rng.randbytes(size // 4))
