"""The file turns bad in the middle of a run, or another version wrote it: the daemon goes on, and says so."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from banua_probe.app import RETRY_MS, Probe, Rows
from banua_probe.config import Broker, Config, Schedule
from banua_probe.errors import OutboxError
from banua_probe.outbox import Outbox, Owner, Ref
from banua_probe.outbox_file import PAGE_BYTES, REFUSED, SET_ASIDE
from banua_probe.uplink import Connected, Down, Incoming
from banua_wire import batch, receipt
from banua_wire.envelope import unpack
from banua_wire.rows import Row
from tests.probe.outboxes import BOOT, JOURNAL, SECRET, Bench, Clock, stored, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from banua_wire.receipt import Receipt


@dataclass
class Wire:
    """A link that only collects what is published."""

    sent: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0

    def connect(self, will: tuple[str, bytes]) -> None:
        del will
        self.connections += 1

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        del retain
        self.sent.append((topic, payload))
        return len(self.sent)

    def close(self) -> None: ...


class Daemon:
    """A running probe on a real outbox file, its clock turned by the test."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.wire, self.path = Clock(10_000), Wire(), folder / "outbox.db"
        self.refs: list[Ref] = []  # batches in the file before anything happens to it
        owner = Owner("kalsel-0001", SECRET, BOOT, self.clock)
        self.outbox = Outbox(self.path, owner, max_bytes=10**8, checkpoint=lambda _: None)
        config = Config("kalsel-0001", Broker("127.0.0.1", tls=False), schedule=Schedule(1, 1, 60))
        self.probe = Probe(
            config, self.outbox, owner, random.Random(1), link=self.wire, ntp=lambda: None, checkpoint=lambda _: None
        )

    def take(self, event: Connected | Down | Incoming | Rows) -> None:
        """What the main thread does with an event and in the step after it."""
        self.probe._inbox.put(event)
        self.probe._take()
        self.probe.step()

    def answer(self) -> Receipt:
        message = receipt.Receipt(self.outbox.stream, JOURNAL, self.outbox._ask, [], [], 0, [], 1_790_000_000_000)
        self.take(Incoming("banua/v1/kalsel-0001/receipt", receipt.encode(message)))
        return message

    def connect(self) -> None:
        self.clock.now += 400_000
        self.probe.step()
        self.take(Connected())
        self.answer()

    def measure(self, n: int) -> None:
        """A row, and the seal that it is due for."""
        self.take(Rows([Row("path", n, {"rtt_us": [random.Random(n * 256 + k).randrange(2**24) for k in range(256)]})]))
        self.clock.now += 61_000
        self.probe.step()

    def batches(self) -> list[bytes]:
        return [payload for topic, payload in self.wire.sent if topic.endswith("/batch")]

    def receipt_newest(self) -> None:
        """The one batch that goes after silence arrives: the others may follow."""
        newest = self.batches()[-1]
        entry = (unpack(newest)[0].seq, batch.digest(newest)[: batch.HASH8_BYTES])
        message = receipt.Receipt(self.outbox.stream, JOURNAL, 0, [entry], [], 0, [], 1_790_000_000_000)
        self.take(Incoming("banua/v1/kalsel-0001/receipt", receipt.encode(message)))

    def told(self) -> dict[str, str]:
        """Return the events in the file, name to detail."""
        opened, batches = stored(self.path)
        rows = [row for _, row in opened] + [row for state in batches.values() for *_, part in state for row in part]
        return {str(row.values["name"]): str(row.values.get("detail")) for row in rows if row.kind == "event"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    made.connect()
    for n in range(1, 31):
        made.measure(n)
    made.answer()
    made.refs = made.outbox.oldest(99, without=())
    assert len(made.refs) >= 30
    yield made
    made.outbox.__exit__()


def overwrite(daemon: Daemon, first_page: int) -> None:
    """Overwrite the file on the disk from a page on, and make SQLite forget what it has read."""
    db = daemon.outbox._db
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.execute("PRAGMA shrink_memory")
    with daemon.path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(first_page * PAGE_BYTES)
        file.write(os.urandom(size - first_page * PAGE_BYTES))


def down(daemon: Daemon) -> None:
    """The connection ends while a batch that was overtaken is under way: its try is to be counted."""
    for flight in daemon.probe._delivery._flights.values():
        flight.overtaken = True
    daemon.take(Down("test"))


def got(daemon: Daemon, count: int = 9) -> None:
    entries = [(ref.seq, ref.hash8) for ref in daemon.refs[:count]]
    message = receipt.Receipt(daemon.outbox.stream, JOURNAL, 1, entries, [], 9, [], 1_790_000_000_000)
    daemon.take(Incoming("banua/v1/kalsel-0001/receipt", receipt.encode(message)))


WHEN: dict[str, Callable[[Daemon], None]] = {
    "sending": lambda daemon: daemon.probe.step(),
    "a receipt": got,
    "the connection ends": down,
    "sealing": lambda daemon: daemon.measure(99),
}


@pytest.mark.parametrize("first_page", [0, 1], ids=["all of it", "all but the header"])
@pytest.mark.parametrize("happens", WHEN.values(), ids=WHEN)
def test_damage_in_the_middle_of_a_run_begins_a_new_outbox(
    daemon: Daemon, happens: Callable[[Daemon], None], first_page: int
) -> None:
    assert daemon.batches()
    old, ask = daemon.outbox.stream, daemon.outbox._ask
    daemon.probe.handle(Rows([Row("radio", 7, {"modem": "sim0", "rsrp_dbm": -99.0})]))  # in memory when it happens
    overwrite(daemon, first_page)
    happens(daemon)
    if not daemon.probe._delivery.is_connected:
        daemon.connect()
    daemon.measure(100)
    daemon.clock.now += RETRY_MS
    daemon.measure(101)
    assert (daemon.path.parent / "outbox.damaged-1").exists()
    assert not (daemon.path.parent / "outbox.damaged-2").exists()
    assert daemon.outbox.stream != old
    told = daemon.told()
    assert told["outbox_damaged"] == "outbox.damaged-1"
    assert told["previous_stream"] == old.hex()
    rows = [row for *_, part in stored(daemon.path)[1]["waiting"] for row in part]
    assert {7, 100, 101} <= {row.boottime_ms for row in rows}, "what was in memory goes into the new file"
    before = len(daemon.batches())
    daemon.take(Down("test"))
    daemon.connect()
    assert daemon.outbox._ask > ask, "an ask lower than those before would not be heard"
    daemon.receipt_newest()
    fresh = daemon.batches()[before:]
    assert {100, 101} <= {row.boottime_ms for message in fresh for row in batch.open_rows(message)}


def test_what_is_remembered_of_the_damaged_file_touches_no_batch_of_the_new_one(daemon: Daemon) -> None:
    overwrite(daemon, 1)
    daemon.probe.step()
    for n in range(200, 240):
        daemon.measure(n)
    for ref in daemon.refs:
        daemon.outbox.mark(ref, SET_ASIDE)
    daemon.outbox.commit()
    assert daemon.outbox.states().keys() == {"waiting"}


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Let every read of the file end in an I/O error: its descriptor is a folder's meanwhile."""
    mine = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if os.path.realpath(entry) == str(path)]
    folder = os.open(path.parent, os.O_RDONLY)
    saved = {fd: os.dup(fd) for fd in mine}
    for fd in mine:
        os.dup2(folder, fd)
    yield
    for fd, copy in saved.items():
        os.dup2(copy, fd)
        os.close(copy)
    os.close(folder)


def test_an_io_error_holds_and_nothing_is_lost(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """It may pass: the file stays, the rows wait in memory, and the daemon neither dies nor asks twice a second."""
    got(daemon, 25)
    assert daemon.probe._delivery.plan(daemon.clock()).batches, "there is room under way, so each step looks for more"
    stream, waiting, used = daemon.outbox.stream, daemon.outbox.waiting, daemon.outbox.bytes_used
    daemon.outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    daemon.outbox._db.execute("PRAGMA shrink_memory")
    with unreadable(daemon.path):
        with pytest.raises(OutboxError, match="disk I/O error"):
            daemon.outbox.oldest(1, without=())
        assert daemon.outbox.bytes_used == used, "the last that was known"
        caplog.clear()
        for _ in range(40):
            daemon.clock.now += 500
            daemon.probe.step()
        assert len(caplog.records) <= 2, "the disk is left alone for a while"
        daemon.measure(300)
        down(daemon)
    daemon.clock.now += RETRY_MS
    daemon.connect()
    daemon.measure(301)
    assert daemon.outbox.stream == stream
    assert daemon.outbox.waiting > waiting
    assert daemon.wire.connections == 2
    held = {row.boottime_ms for state in stored(daemon.path)[1].values() for *_, rows in state for row in rows}
    assert held >= {*range(1, 31), 300, 301}
    assert daemon.told()["outbox_read_failed"] == "disk I/O error"


def test_while_no_new_file_can_be_made_every_use_tries_again(daemon: Daemon) -> None:
    overwrite(daemon, 1)
    moved = daemon.outbox._move_aside

    def refuse() -> None:
        raise PermissionError("read-only")

    daemon.outbox._move_aside = refuse  # type: ignore[method-assign]
    for _ in range(3):
        daemon.probe.step()
    with pytest.raises(OutboxError, match="no new one: read-only"):
        daemon.outbox.oldest(1, without=daemon.probe._delivery.busy(0)) or daemon.outbox.states()
    daemon.outbox._move_aside = moved  # type: ignore[method-assign]
    daemon.measure(100)
    daemon.clock.now += RETRY_MS
    daemon.measure(101)
    assert {100, 101} <= {row.boottime_ms for *_, rows in stored(daemon.path)[1]["waiting"] for row in rows}


# --- another version --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.close()


def insert(path: Path, *rows: bytes) -> None:
    """Write open rows as another version would."""
    db = sqlite3.connect(path)
    with db:
        db.executemany("INSERT INTO open_rows (boot_id, row) VALUES (?, ?)", [(BOOT, row) for row in rows])
    db.close()


def aside(path: Path) -> list[bytes]:
    db = sqlite3.connect(path)
    found = [row for (row,) in db.execute("SELECT row FROM rows_aside ORDER BY id")]
    db.close()
    return found


FOREIGN = [
    msgspec.msgpack.encode(("sonar", 5, {"depth_m": 3})),
    msgspec.msgpack.encode(("event", 6, {"name": "tick", "n": 6, "colour": "red"})),
    msgspec.msgpack.encode(("event", 7, {"name": "tick", "n": -1})),
    msgspec.msgpack.encode({"kind": "event"}),
    b"\xc1",
]


def test_rows_the_dictionary_does_not_hold_are_kept_aside_and_the_others_sealed(bench: Bench) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    bench.close()
    insert(bench.path, *FOREIGN)
    for _ in range(2):  # told once, not at every start
        outbox = bench.open()
        outbox.add(tick(outbox.next_seq + 1))
        assert outbox.seal() == 1
        bench.close()
    assert aside(bench.path) == FOREIGN
    first, second = (rows for *_, rows in stored(bench.path)[1]["waiting"])
    (told,) = [row for row in first if row.values["name"] == "rows_set_aside"]
    assert told.values["detail"] == "5 open rows that the dictionary of this version does not hold"
    assert [row for row in first if row != told] == [tick(1), tick(2)]
    assert second == [tick(3)]


def test_a_row_set_aside_is_open_again_once_the_dictionary_holds_it(bench: Bench) -> None:
    bench.open()
    bench.close()
    insert(bench.path, FOREIGN[0])
    bench.open()
    bench.close()
    known = msgspec.msgpack.encode(("event", 9, {"name": "tick", "n": 9}))
    db = sqlite3.connect(bench.path)
    with db:  # as if this version had learnt the kind meanwhile
        db.execute("UPDATE rows_aside SET row = ?", (known,))
    db.close()
    outbox = bench.open()
    outbox.seal()
    assert tick(9) in stored(bench.path)[1]["waiting"][0][3]
    bench.close()
    assert aside(bench.path) == []


def of_a_newer_version(outbox: Outbox) -> None:
    """Make the sealed batches those of a schema that this version cannot read."""
    for batch_id, message in outbox._db.execute("SELECT id, message FROM batches").fetchall():
        envelope, _ = unpack(message)
        at = message.index(envelope.boot_id) + len(envelope.boot_id)
        newer = message[:at] + (60_000).to_bytes(2) + message[at + 2 :]
        assert unpack(newer)[0].schema == 60_000
        outbox._db.execute("UPDATE batches SET message = ? WHERE id = ?", (newer, batch_id))


def test_a_batch_of_a_newer_version_in_conflict_is_kept_for_that_version(bench: Bench) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.seal()
    of_a_newer_version(outbox)
    stream = outbox.stream
    outbox.reseal(outbox.oldest(1, without=())[0])
    outbox.commit()
    assert (outbox.states(), outbox.waiting, outbox.stream) == ({REFUSED: 1}, 0, stream)


def test_a_batch_of_a_newer_version_that_has_to_go_is_declared_lost(bench: Bench) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.seal()
    of_a_newer_version(outbox)
    outbox._max_bytes = outbox.bytes_used - 1
    outbox._make_room()
    ((_, lost),) = stored(bench.path)[0]
    assert lost.values == {"stream": outbox.stream.hex(), "from_seq": 1, "to_seq": 1, "reason": "evicted"}
