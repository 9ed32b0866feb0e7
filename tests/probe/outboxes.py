"""An outbox with a clock that a test turns, and what an independent reader finds in its file."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from banua_probe.outbox import Outbox, Owner
from banua_wire import batch
from banua_wire.envelope import unpack
from banua_wire.receipt import Receipt
from banua_wire.rows import Row

if TYPE_CHECKING:
    from pathlib import Path

SECRET = bytes(range(32))
BOOT = b"boot-one--------"
JOURNAL = b"journal1"


@dataclass
class Clock:
    """CLOCK_BOOTTIME that moves on by a millisecond whenever it is read."""

    now: int = 1000

    def __call__(self) -> int:
        self.now += 1
        return self.now


@dataclass
class Crash(Exception):  # noqa: N818 (it is the power cut, not an error)
    point: str


@dataclass
class Bench:
    """Opens outboxes on one file, and copies of it, as after a power cut."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    boot: bytes = BOOT
    max_bytes: int = 64_000_000
    crash_at: str = ""
    opened: list[Outbox] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "outbox.db"

    def reach(self, point: str) -> None:
        if point == self.crash_at:
            raise Crash(point)

    def open(self) -> Outbox:
        owner = Owner("kalsel-0001", SECRET, self.boot, self.clock)
        outbox = Outbox(self.path, owner, max_bytes=self.max_bytes, checkpoint=self.reach)
        self.opened.append(outbox)
        return outbox

    def cut_power(self, folder: Path) -> Bench:
        """Return a bench on a copy of the files as they are now; nothing is closed first."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("outbox.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
        return Bench(folder, self.clock, self.boot, self.max_bytes)

    def close(self) -> None:
        for outbox in self.opened:
            outbox.__exit__()
        self.opened.clear()


def tick(n: int) -> Row:
    """A row that a test can tell from every other."""
    return Row("event", n, {"name": "tick", "n": n})


def stored(path: Path) -> tuple[list[tuple[bytes, Row]], dict[str, list[tuple[bytes, int, bytes, list[Row]]]]]:
    """Return, read without the outbox: the open rows by boot, and by state the batches (stream, seq, boot, rows)."""
    with tempfile.TemporaryDirectory(prefix="stored-") as folder, contextlib.closing(_open_copy(path, folder)) as db:
        decode = msgspec.msgpack.decode
        opened = [
            (boot, Row(*decode(row))) for boot, row in db.execute("SELECT boot_id, row FROM open_rows ORDER BY id")
        ]
        batches: dict[str, list[tuple[bytes, int, bytes, list[Row]]]] = {}
        for state, message in db.execute("SELECT state, message FROM batches ORDER BY id"):
            envelope, _ = unpack(message)
            batches.setdefault(state, []).append(
                (envelope.stream, envelope.seq, envelope.boot_id, batch.open_rows(message))
            )
        return opened, batches


def _open_copy(path: Path, folder: str) -> sqlite3.Connection:
    """Open a copy of an outbox that its owner keeps locked; it must be at rest, as it is between a test's steps."""
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{path}{suffix}", f"{folder}/outbox.db{suffix}")
    return sqlite3.connect(f"{folder}/outbox.db")


def receipt(outbox: Outbox, stored_to: int = 0, **other: Any) -> Receipt:
    values: dict[str, Any] = {
        "stream": outbox.stream, "journal_id": JOURNAL, "ask": 0, "got": [], "rejects": [], "stored_to": stored_to,
        "also": [], "server_ms": 1_790_000_000_000,
    }  # fmt: skip
    return Receipt(**(values | other))
