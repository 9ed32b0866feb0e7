"""Outboxes copied and rolled back, in every order of messages: every row is journalled, counted once or held.

Real probes (outbox, delivery, the daemon's own decisions) and a real journal, joined by a wire that this test reorders,
repeats and cuts. Nothing here needs a server.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from banua_collector import registry
from banua_collector.config import Limits
from banua_collector.db import migrate, open_engine, reading
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.project.influx import InfluxProjection
from banua_collector.tables import batches, boots, keys, probes, quarantine
from banua_collector.verify import Message
from banua_probe.app import Probe, Rows
from banua_probe.clock import Anchor
from banua_probe.config import Broker, Config, Schedule
from banua_probe.outbox import Outbox, Owner
from banua_probe.uplink import Connected, Down, Incoming
from banua_wire import receipt, signature
from banua_wire.batch import open_rows
from banua_wire.rows import Row
from tests.collector.memory import MemoryTarget

if TYPE_CHECKING:
    from pathlib import Path

NAME = "kalsel-0001"
SECRET = bytes(range(32))
EPOCH_MS = 1_790_000_000_000
A, B = b"A" * 16, b"B" * 16


@dataclass
class Wire:
    """A link that only collects what is published."""

    sent: list[tuple[str, bytes]] = field(default_factory=list)
    mid: int = 0

    def connect(self, will: tuple[str, bytes]) -> None: ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        del retain
        self.mid += 1
        self.sent.append((topic, payload))
        return self.mid

    def close(self) -> None: ...


class Device:
    """One board: its boot, its outbox file, its daemon."""

    def __init__(self, folder: Path, boot_id: bytes, now: Callable[[], int], started_ms: int) -> None:
        self.boot_id, self.now, self.started_ms, self.number = boot_id, now, started_ms, 0
        owner = Owner(NAME, SECRET, boot_id, self.boottime)
        self.outbox = Outbox(folder / "outbox.db", owner, max_bytes=10**8, checkpoint=lambda _: None)
        self.wire = Wire()
        config = Config(NAME, Broker("127.0.0.1", tls=False), schedule=Schedule(1, 1, 60))
        self.probe = Probe(
            config, self.outbox, owner, random.Random(1), link=self.wire, ntp=self.anchor, checkpoint=lambda _: None
        )
        self.made: set[tuple[bytes, int]] = set()

    def boottime(self) -> int:
        return self.now() - self.started_ms

    def anchor(self) -> Anchor:
        return Anchor(self.boottime(), EPOCH_MS + self.now(), 1, "ntp")

    def measure(self) -> None:
        boottime = self.boottime()
        self.made.add((self.boot_id, boottime))
        self.probe.handle(Rows([Row("radio", boottime, {"modem": "sim0", "rsrp_dbm": -100.0 - len(self.made) % 20})]))


class World:
    """The devices, the journal, and the messages between them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms = folder, 1_000_000
        self.engine = open_engine(f"sqlite:///{folder}/journal.sqlite")
        migrate(self.engine)
        with self.engine.begin() as conn:
            registry.add_probe(conn, NAME, signature.public_of(SECRET), now_ms=0)
        self.ingest = Ingest(
            self.engine, Metrics(self.engine), Limits(), lambda: EPOCH_MS + self.now_ms, lambda _: None
        )
        self.devices: list[Device] = []
        self.up: list[tuple[Device, str, bytes]] = []
        self.down: list[tuple[Device, bytes]] = []
        self.target = MemoryTarget()

    def boot(self, folder: Path, boot_id: bytes) -> Device:
        device = Device(folder, boot_id, lambda: self.now_ms, self.now_ms - 1000)
        self.devices.append(device)
        return device

    def step(self, device: Device) -> None:
        self.now_ms += 1500
        device.probe.step()
        self.up += [(device, name, payload) for name, payload in device.wire.sent]
        device.wire.sent.clear()

    def connect(self, device: Device) -> None:
        device.probe.step()  # its time to connect has come
        device.probe.handle(Connected())
        self.step(device)

    def arrive(self, choose: Callable[[int], int]) -> None:
        """One message of the up direction reaches the collector; its receipts set out to every device."""
        if self.up:
            _, name, payload = self.up.pop(choose(len(self.up)))
            message = Message(name, payload, EPOCH_MS + self.now_ms)
            for _, answer in self.ingest.take([(message, False)]):
                self.down += [(device, receipt.encode(answer)) for device in self.devices]

    def answer(self, choose: Callable[[int], int]) -> None:
        """One receipt reaches one device."""
        if self.down:
            device, payload = self.down.pop(choose(len(self.down)))
            device.probe.handle(Incoming(f"banua/v1/{NAME}/receipt", payload))

    def settle(self) -> None:
        """Let everything arrive in order, reconnecting, until nothing waits."""
        for _ in range(60):
            for device in self.devices:
                device.probe.handle(Down("test"))
                self.now_ms += 400_000
                device.probe.step()
                device.wire.sent.clear()
                self.connect(device)
                for _ in range(8):
                    self.step(device)
                    while self.up or self.down:
                        self.arrive(lambda _: 0)
                        self.answer(lambda _: 0)
            if all(device.outbox.waiting == 0 and device.outbox.rows_held == 0 for device in self.devices):
                return
        raise AssertionError([device.outbox.states() for device in self.devices])

    def journalled(self) -> list[tuple[bytes, int]]:
        with reading(self.engine) as conn:
            stored = conn.execute(select(batches.c.boot_id, batches.c.message)).all()
        return [
            (boot_id, row.boottime_ms)
            for boot_id, message in stored
            for row in open_rows(message)
            if row.kind == "radio"
        ]

    def held(self) -> set[bytes]:
        with reading(self.engine) as conn:
            return set(conn.execute(select(boots.c.boot_id).where(boots.c.standing == "held")).scalars())

    def project(self) -> list[str]:
        """Project all and return the radio points that stand in the end."""
        projection = InfluxProjection(self.engine, self.target, lambda: EPOCH_MS + self.now_ms)
        while projection.step() is not None:
            pass
        return [series for series, _ in self.target.points if series.startswith("radio")]


def check_no_loss(world: World) -> None:
    """Every row of every device is in the journal, and what an outbox may evict is there or in quarantine."""
    made = set().union(*(device.made for device in world.devices))
    assert made <= set(world.journalled())
    with reading(world.engine) as conn:
        stored = set(conn.execute(select(batches.c.hash)).scalars()) | set(
            conn.execute(select(quarantine.c.hash).where(quarantine.c.reason == "quarantined")).scalars()
        )
    prefixes = {digest[:8] for digest in stored}
    for device in world.devices:
        evictable = device.outbox._db.execute("SELECT hash8 FROM batches WHERE state = 'evictable'").fetchall()
        assert {hash8 for (hash8,) in evictable} <= prefixes


moves = st.lists(st.tuples(st.sampled_from("mmsscaaarrxd"), st.integers(0, 1), st.integers(0, 10**6)), max_size=120)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=st.integers(0, 4), moves=moves)
def test_two_live_clones_lose_nothing_under_any_order_of_messages(
    tmp_path_factory: pytest.TempPathFactory, before: int, moves: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("clones")
    world = World(folder)
    first = world.boot(folder / "a", A)
    world.connect(first)
    for _ in range(before):
        first.measure()
        world.step(first)
        world.arrive(lambda _: 0)
        world.answer(lambda _: 0)
    first.outbox.commit()
    (folder / "b").mkdir()
    _copy(folder / "a", folder / "b")
    world.boot(folder / "b", B)
    for move, which, number in moves:
        _apply(world, move, world.devices[which], number)
    for device in world.devices:
        device.measure()
    world.settle()
    check_no_loss(world)
    counted = world.project()
    ran = {boot_id for boot_id, _ in world.journalled()}
    expected = [row for row in set(world.journalled()) if row[0] not in world.held()]
    assert len(counted) == len(expected), "what is not held is counted once"
    assert world.held() == ran, "two boots that ran at the same time are both held"
    for device in world.devices:
        device.outbox.__exit__()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=st.integers(0, 4), between=moves, after=moves)
def test_a_rolled_back_outbox_loses_nothing_and_counts_each_row_once(
    tmp_path_factory: pytest.TempPathFactory,
    before: int,
    between: list[tuple[str, int, int]],
    after: list[tuple[str, int, int]],
) -> None:
    folder = tmp_path_factory.mktemp("rollback")
    world = World(folder)
    device = world.boot(folder / "a", A)
    world.connect(device)
    for _ in range(before):
        device.measure()
        world.step(device)
    device.outbox.commit()
    (folder / "copy").mkdir()
    _copy(folder / "a", folder / "copy")
    for move, _, number in between:
        _apply(world, move, device, number)
    world.settle()
    device.outbox.__exit__()
    made = device.made
    world.devices.clear()
    world.down.clear()
    again = world.boot(folder / "copy", A)
    again.started_ms = device.started_ms
    again.made |= made
    for move, _, number in after:
        _apply(world, move, again, number)
    again.measure()
    world.settle()
    check_no_loss(world)
    assert not world.held()
    assert len(world.project()) == len(set(world.journalled())), "each row is counted once"
    again.outbox.__exit__()


def test_a_collector_restored_to_an_older_journal_gets_back_what_it_forgot(tmp_path: Path) -> None:
    world = World(tmp_path)
    device = world.boot(tmp_path / "a", A)
    world.connect(device)
    for _ in range(5):
        device.measure()
        world.step(device)
    world.settle()
    backup = tmp_path / "backup.sqlite"
    _backup(world, backup)
    for _ in range(5):
        device.measure()
        world.step(device)
    world.settle()
    whole = sorted(set(world.journalled()))
    world.engine.dispose()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"journal.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, tmp_path / "journal.sqlite")
    assert len(set(world.journalled())) < len(whole)
    world.settle()
    assert sorted(set(world.journalled())) == whole
    assert device.outbox.states().keys() == {"evictable"}
    device.outbox.__exit__()


def test_what_was_measured_before_the_registration_arrives_after_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.engine.begin() as conn:
        conn.execute(keys.delete())
        conn.execute(probes.delete())
    device = world.boot(tmp_path / "a", A)
    world.connect(device)
    device.measure()
    world.step(device)
    while world.up or world.down:
        world.arrive(lambda _: 0)
        world.answer(lambda _: 0)
        world.step(device)
    assert world.journalled() == [], "an unknown key is never learnt"
    device.outbox.commit()
    assert device.outbox.states().keys() == {"refused"}, "it is kept, and not sent over and over"
    with world.engine.begin() as conn:
        registry.add_probe(conn, NAME, signature.public_of(SECRET), now_ms=0)
    world.settle()
    check_no_loss(world)
    device.outbox.__exit__()


def _apply(world: World, move: str, device: Device, number: int) -> None:
    def choose(size: int) -> int:
        return number % size

    match move:
        case "m":
            device.measure()
        case "s":
            world.step(device)
        case "c":
            world.connect(device)
        case "a":
            world.arrive(choose)
        case "r":
            world.answer(choose)
        case "x":  # the network loses what is under way in one direction
            (world.up if number % 2 else world.down).clear()
        case "d":
            device.probe.handle(Down("test"))


def _copy(source: Path, target: Path) -> None:
    for file in source.glob("outbox.db*"):
        shutil.copy(file, target / file.name)


def _backup(world: World, file: Path) -> None:
    raw: Any = world.engine.raw_connection()
    raw.execute("VACUUM INTO ?", (str(file),))
    raw.close()
