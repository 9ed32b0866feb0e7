"""What the outbox writes to disk in a day, as the kernel counts it for the process.

A child process runs the real `Probe` and `Outbox` over the rows of `day.Senses`, connected, each batch receipted at
once as a collector would. Its time is virtual, its commits are real. Counted is from when the outbox is open and the
ask is answered. A day has the checkpoints of SQLite's log in it, which half an hour has not.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from banua_lab.bench.day import Senses
from banua_lab.bench.figures import Figure
from banua_probe.app import STEP_S, Probe, Rows
from banua_probe.config import Broker, Config
from banua_probe.outbox import Outbox, Owner
from banua_probe.uplink import Connected, Event, Incoming
from banua_wire import batch, birth, receipt, signature
from banua_wire import topics as names
from banua_wire.envelope import STREAM_BYTES, unpack
from banua_wire.receipt import Receipt

GOAL_MB: Final = 8.0
DAY_MINUTES: Final = 1440
SEED: Final = 6301
PROBE: Final = "kalsel-0001"
_STEP_MS: Final = round(STEP_S * 1000)
_WRITEBACK_MS: Final = 30_000
"""The kernel writes a changed page after this long; virtual time is over before it does, so it is made to."""
_IN_MEMORY: Final = {"tmpfs", "ramfs"}
_CHILD: Final = "import sys; from banua_lab.bench.outbox import child; child(sys.argv[1], int(sys.argv[2]))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of this bench."""
    parser.add_argument("--minutes", type=int, default=DAY_MINUTES, help="of virtual time (default a day: 1440)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where on a disk to write (default: here)")


def run(arguments: argparse.Namespace) -> list[Figure]:
    """Return the figures; ValueError when the folder is not on a disk, OSError when there is none."""
    kind = file_system(arguments.folder)
    if kind in _IN_MEMORY:
        raise ValueError(f"--folder {arguments.folder}: {kind} is memory; name a folder on a disk")
    print(f"writing to {kind}, {arguments.minutes} min of the schedule", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="banua-bench-", dir=arguments.folder) as name:
        command = [sys.executable, "-c", _CHILD, name, str(arguments.minutes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return figures(json.loads(done.stdout), arguments.minutes)


def figures(counted: dict[str, int], minutes: int) -> list[Figure]:
    """Return the figures of a day from what was counted in `minutes`."""
    day = {name: count * DAY_MINUTES / minutes for name, count in counted.items()}
    return [
        Figure("written to the disk (write_bytes)", day["write_bytes"] / 1e6, "MB/day", GOAL_MB),
        Figure("passed to write calls (wchar)", day["wchar"] / 1e6, "MB/day"),
        Figure("batches", day["batches"], "/day"),
        Figure("bytes of batches", day["batch_bytes"] / 1e6, "MB/day"),
        Figure("rows", day["rows"], "/day"),
    ]


def file_system(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system of `folder`, such as ext4; OSError when there is no folder."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entries = [line.split(" - ", 1) for line in mountinfo.read_text(encoding="utf-8").splitlines()]
    kinds = [last.split()[0] for first, last in entries if first.split()[2] == number]
    return kinds[-1] if kinds else "unknown"


# --- the child --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Collector:
    """The link to a broker behind which a collector takes and receipts everything at once; `events` are the answers."""

    now_ms: Callable[[], int]
    events: list[Event] = field(default_factory=list)
    batches: int = 0
    batch_bytes: int = 0
    _stored_to: int = 0
    _mid: int = 0

    def connect(self, will: tuple[str, bytes]) -> None:  # noqa: ARG002 (as `Link` says)
        """Accept the connection."""
        self.events.append(Connected())

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:  # noqa: ARG002
        """Take a message and answer it."""
        self._mid += 1
        if names.parse(topic)[1] == "state":
            state = birth.decode(payload)
            self._receipt(state.stream, state.ask, [])
        else:
            self.batches, self.batch_bytes = self.batches + 1, self.batch_bytes + len(payload)
            envelope, _ = unpack(payload)
            self._stored_to = envelope.seq
            self._receipt(envelope.stream, 0, [(envelope.seq, batch.digest(payload)[: batch.HASH8_BYTES])])
        return self._mid

    def close(self) -> None:
        """End the connection."""

    def _receipt(self, stream: bytes, ask: int, got: list[tuple[int, bytes]]) -> None:
        journal_id = bytes(STREAM_BYTES)
        told = Receipt(stream, journal_id, ask, got, [], self._stored_to, [], 1_780_000_000_000 + self.now_ms())
        self.events.append(Incoming(names.topic(PROBE, "receipt"), receipt.encode(told)))


def child(folder: str, minutes: int) -> None:
    """Run `minutes` of the schedule with the outbox in `folder`, and print what was counted as one JSON object."""
    now_ms = 1_000_000
    owner = Owner(PROBE, signature.new_secret(), bytes(range(16)), lambda: now_ms)
    collector = Collector(owner.boottime_ms)
    config = Config(PROBE, Broker("localhost", tls=False), state_dir=folder)
    rng = random.Random(SEED)  # noqa: S311 (a seed, not a secret)
    senses = Senses(SEED, now_ms)
    rows = 0

    def nothing(_: str) -> None:
        pass

    with Outbox(config.outbox_file, owner, max_bytes=config.outbox.max_mb * 1_000_000, checkpoint=nothing) as outbox:
        probe = Probe(config, outbox, owner, rng, link=collector, ntp=lambda: None, checkpoint=nothing)
        probe.step()
        _answer(probe, collector)
        before = _io()
        for _ in range(minutes * 60_000 // _STEP_MS):
            now_ms += _STEP_MS
            made = senses.rows(now_ms)
            rows += len(made)
            probe.handle(Rows(made))
            probe.step()
            _answer(probe, collector)
            if now_ms % _WRITEBACK_MS == 0:
                _write_back(Path(folder))
        after = _io()
    counted = {name: after[name] - before[name] for name in ("write_bytes", "wchar")}
    print(json.dumps(counted | {"batches": collector.batches, "batch_bytes": collector.batch_bytes, "rows": rows}))


def _answer(probe: Probe, collector: Collector) -> None:
    while collector.events:
        probe.handle(collector.events.pop(0))


def _write_back(folder: Path) -> None:
    """Have the kernel write what has changed in `folder`; SQLite itself leaves out the log's index (-shm).

    Closing a file drops this process's locks on it (fcntl(2)), which are there for others: nobody else is in here.
    """
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened)


def _io() -> dict[str, int]:
    """Return what the kernel has counted for this process (proc_pid_io(5))."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return {name: int(count) for name, _, count in (line.partition(": ") for line in lines)}
