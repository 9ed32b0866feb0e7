"""The outbox read from a copy while its daemon writes: each copy is of one moment, and the daemon's files are left."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from banua_probe import outbox_file as module
from banua_probe.errors import OutboxError
from banua_probe.outbox_file import copied, counts
from tests.probe.outboxes import Bench, tick

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAEMON = """
import sys, time
from pathlib import Path
from banua_probe.outbox import Outbox, Owner
from banua_probe.outbox_file import EVICTABLE
from banua_wire.rows import Row
now = 0
def boottime_ms():
    global now
    now += 1
    return now
owner = Owner("kalsel-0001", bytes(32), b"B" * 16, boottime_ms)
with Outbox(Path(sys.argv[1]), owner, max_bytes=10**8, checkpoint=lambda _: None) as outbox:
    outbox._db.execute("PRAGMA wal_autocheckpoint=100")
    outbox._db.execute("PRAGMA synchronous=OFF")  # faster than any daemon
    print("open", flush=True)
    while True:
        for _ in range(5):
            outbox.add(Row("event", boottime_ms(), {"name": "tick", "n": now}))
        outbox.seal()
        for ref in outbox.oldest(1, without=()):
            outbox.mark(ref, EVICTABLE)
        time.sleep(0.005)
"""


@contextlib.contextmanager
def daemon(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", DAEMON, path], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


def test_copies_while_the_daemon_writes_are_each_of_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    seen, refused = [], 0
    with daemon(path) as running:
        for _ in range(25):
            try:
                with copied(path) as db:
                    told = counts(db)
                    (next_seq,) = db.execute("SELECT value FROM meta WHERE name = 'next_seq'").fetchone()
            except OutboxError:
                refused += 1
                continue
            assert told["waiting"] + told["evictable"] == next_seq - 1
            assert told["waiting"] <= 2
            seen.append(next_seq)
        assert running.poll() is None
    assert seen == sorted(seen)
    assert len(set(seen)) > 12 > refused


def test_the_command_works_while_the_daemon_writes_and_after_a_kill(tmp_path: Path) -> None:
    config = tmp_path / "probe.toml"
    config.write_text('name = "kalsel-0001"\nstate_dir = "state"\n[broker]\nhost = "localhost"\ntls = false\n')
    (tmp_path / "state").mkdir()
    command = [sys.executable, "-c", "import sys; from banua_probe.cli import main; sys.exit(main())"]
    command += ["outbox", "--json", "--config", str(config)]
    with daemon(tmp_path / "state/outbox.db"):
        running = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(3)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    for done in (*running, killed):
        assert (done.returncode, done.stderr) == (0, "")
    told = [json.loads(done.stdout)["evictable"] for done in (*running, killed)]
    assert told == sorted(told)
    assert told[-1] > 0


def test_the_daemons_files_are_left_as_they_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.seal()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with copied(bench.path) as db:
        assert counts(db)["waiting"] == 1
        db.execute("DELETE FROM batches")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    bench.close()


def test_a_log_begun_anew_between_the_two_files_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old database with the new log would be sound to SQLite, and wrong."""
    bench = Bench(tmp_path / "state")
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.seal()
    copyfile, turns = shutil.copyfile, list[str]()

    def torn(source: str, target: str) -> None:
        if source.endswith("-wal") and len(turns) < 2:
            turns.append(source)
            outbox._db.execute("PRAGMA wal_checkpoint").fetchall()
            outbox.add(tick(2 + len(turns)))
            outbox.seal()
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", torn)
    with copied(bench.path) as db:
        assert counts(db)["waiting"] == 3
        (next_seq,) = db.execute("SELECT value FROM meta WHERE name = 'next_seq'").fetchone()
        assert next_seq == 4
    assert len(turns) == 2
    bench.close()


def test_what_never_comes_to_rest_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "state")
    bench.open()
    bench.close()
    monkeypatch.setattr(module, "COPIES", 2)
    monkeypatch.setattr(module, "_version", lambda _: (object(),))
    with pytest.raises(OutboxError) as told, copied(bench.path):
        pass
    assert str(told.value) == f"outbox {bench.path}: it changes too fast to be copied; try again"


def test_an_outbox_of_a_version_without_rows_aside_is_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state")
    outbox = bench.open()
    outbox._db.execute("DROP TABLE rows_aside")
    bench.close()
    with copied(bench.path) as db:
        assert counts(db)["rows_aside"] == 0


def test_many_may_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    told: list[int] = []

    def read() -> None:
        with copied(path) as db:
            told.append(counts(db)["open_rows"])

    with daemon(path) as running:
        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert running.poll() is None
    assert told == [0] * 4
