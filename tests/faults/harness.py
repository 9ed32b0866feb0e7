"""A world of real parts under load: twenty signed probes, broker, collector, journal and InfluxDB, each killable.

`World` starts them, kills them with a count, and gathers what `compare.py` compares. A kill counts only if the part had
work in flight just before it: its `busy` says how much, from databases read from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import psycopg
from nacl.signing import SigningKey

from banua_lab.load import DRAIN_EVENTS
from banua_lab.ports import free_port
from banua_wire.batch import open_rows
from banua_wire.envelope import unpack
from tests.faults.compare import Evidence, Identity, Look, Made, Name, Stored, differences
from tests.faults.watcher import WatchedMosquitto, Watcher
from tests.system.rig import Rig, module, rows, truth_lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from banua_lab.ca import Authority
    from tests.faults.journals import Journal
    from tests.real.influxd import Influxd

PROBES: Final = 20
PERIOD_MS: Final = 500
SHARE: Final = "collectors"
COMMIT_S: Final = 1
STEP_MS: Final = 500
"""How long the probe may wait for its inbox before it looks whether a commit is due."""
LATE_MS: Final = 1000
"""How late two crowded cores may let a thread be."""
WINDOW_MS: Final = COMMIT_S * 1000 + STEP_MS + LATE_MS

KILLS: Counter[str] = Counter()
"""Kills of this session with work in flight, by part."""


def seed_of_this_run() -> int:
    """Return BANUA_FAULTS_SEED, or a new seed; it is printed, so that a run can be played again."""
    seed = int(os.environ.get("BANUA_FAULTS_SEED", random.randrange(10**6)))
    print(f"BANUA_FAULTS_SEED={seed}")
    return seed


@dataclass(slots=True)
class Part:
    """What can be killed: `busy` says how much work it has in hand, 0 while it is not up."""

    kill: Callable[[], None]
    start: Callable[[], None]
    busy: Callable[[], int]
    coming: Future[None] | None = None


@dataclass(slots=True)
class Settings:
    """What differs between worlds: how many probes, how often they speak, and where they run."""

    probes: int = PROBES
    period_ms: int = PERIOD_MS
    seal_s: int = 1
    outbox_mb: int = 64
    load_options: Sequence[str] = ()
    state_of: dict[str, Path] = field(default_factory=dict)


class World:
    """See the module; a context manager that ends what it started."""

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        influx: tuple[Influxd, str],
        journal: Journal,
        seed: int,
        settings: Settings | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings or Settings()
        self.folder, self.authority, self.journal, self.seed = folder, authority, journal, seed
        self.influxd, self.bucket = influx
        self.broker = WatchedMosquitto(folder / "mosquitto", authority)
        self.rig = Rig(folder / "rig", self.broker, authority, influx, limits=journal.settings)
        self.collectors = {"collector": self.rig.collector_config}
        if journal.can_be_killed:
            self._share()
        self.watcher = Watcher(self.broker, authority)
        self.truth = folder / "truth.jsonl"
        self.names = [f"kalsel-{number:04}" for number in range(1, self.settings.probes + 1)]
        self.spare = "kalsel-9001"
        self.secrets: dict[str, bytes] = {}
        self.looks: list[Look] = []
        self.kills: Counter[str] = Counter()
        self.tended = 0
        self.early: set[Name] = set()
        self._confirmed: set[Name] = set()
        self._log_from: dict[str, int] = {}
        self._began_ms = 0
        self._last_id = dict.fromkeys(self.names, 0)
        self._sealed: set[Name] = set()
        self._passed_at_start = self._settled = self._turn = 0
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="restart")
        self.parts = {
            "load": Part(self.kill_load, self.start_load, lambda: self.waiting() if self._told("load") else 0),
            "broker": Part(self.broker.kill, self._start_broker, self._passing),
            "influxd": Part(self.influxd.kill, self.influxd.start, lambda: self.due() if self.influxd.running else 0),
        }
        self.parts["collector"] = Part(
            self._kill_collector, self._start_next, lambda: self.waiting() if self._told(self._victim) else 0
        )
        if journal.can_be_killed:
            self.parts["postgres"] = Part(journal.kill, journal.start, lambda: self.waiting() if self.due() else 0)

    def __enter__(self) -> Self:
        self.journal.start()
        self._start_broker()
        self._introduce()
        self.watcher.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self.watcher.__exit__()
        self.rig.__exit__()
        self.broker.kill()
        self.journal.kill()

    def begin(self) -> None:
        """Start collector and load, and wait until batches arrive."""
        self.start_collectors()
        self.start_load()
        wait_for("the first batches", lambda: self.count("batches") > self.settings.probes, within_s=60)

    # --- who is there -------------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        """Make each probe's key and settings, and register them all in one process."""
        commands = []
        for name in [*self.names, self.spare]:
            folder = self.rig.folder / name
            folder.mkdir()
            state = self.state(name)
            state.mkdir(parents=True, exist_ok=True)
            self.secrets[name] = secrets.token_bytes(32)
            key = folder / "probe.key"
            key.touch(mode=0o600)
            key.write_text(self.secrets[name].hex())
            (folder / "probe.toml").write_text(f"""\
name = "{name}"
state_dir = "{state}"
key_file = "{key}"
{self.rig.broker_section(name)}\
[schedule]
commit_s = {COMMIT_S}
seal_s = {self.settings.seal_s}
[outbox]
max_mb = {self.settings.outbox_mb}
""")
            public = bytes(SigningKey(self.secrets[name]).verify_key).hex()
            commands.append(["probes", "add", name, "--key", public, "--config", str(self.rig.collector_config)])
        program = (
            "import json, sys; from banua_collector.cli import main; sys.exit(any([*map(main, json.load(sys.stdin))]))"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, input=json.dumps(commands).encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def state(self, name: str) -> Path:
        return self.settings.state_of.get(name, self.rig.folder / name / "state")

    def _share(self) -> None:
        """Let a second collector share subscription and database with the first."""
        first = self.rig.collector_config
        text = first.read_text().replace("[broker]\n", f'[broker]\nshare = "{SHARE}"\n')
        first.write_text(text)
        second = first.with_name("collector-2.toml")
        second.write_text(text.replace(f"port = {self.rig.web_port}\n", f"port = {free_port()}\n"))
        self.collectors["collector-2"] = second

    # --- parts --------------------------------------------------------------------------------------------------------

    def strike(self, name: str, within_s: float = 20) -> int:
        """Kill a part as soon as it has work in flight, and begin to start it again; return how much it had."""
        work = self.kill_with_work(name, within_s)
        self.up(name)
        return work

    def kill_with_work(self, name: str, within_s: float = 20) -> int:
        """Kill a part as soon as it has work in flight; return how much it had."""
        part = self.parts[name]
        end = time.monotonic() + within_s
        work = 0
        while not work and time.monotonic() < end:
            if part.coming is None or part.coming.done():
                with contextlib.suppress(sqlite3.OperationalError, psycopg.OperationalError):
                    work = part.busy()
            if not work:
                self.tend()
                time.sleep(0.02)
        self.down(name)
        if work:
            self.count_kill(name)
        return work

    def count_kill(self, name: str) -> None:
        self.kills[name] += 1
        KILLS[name] += 1

    def died(self, name: str, point: str) -> None:
        """Count a part that has killed itself where BANUA_CRASH_AT said."""
        self._killed(name)
        waiting = self.waiting()
        print(f"{name} died {point} with {waiting} in flight")
        if waiting:
            self.count_kill(name)

    def down(self, name: str) -> None:
        """Kill a part and leave it so."""
        part = self.parts[name]
        if part.coming is not None:
            part.coming.result(60)
        part.kill()

    def up(self, name: str) -> None:
        """Begin to start a part: nobody waits for it."""
        part = self.parts[name]
        part.coming = self._pool.submit(part.start)

    def tend(self) -> None:
        """Start a collector again that ended by itself, as its supervisor would: it does when its database is away."""
        for name in self.collectors:
            process = self.rig.processes.get(name)
            if process is not None and process.poll() is not None:
                self.tended += 1
                self.start_collector(name=name)

    def all_up(self) -> None:
        for part in self.parts.values():
            if part.coming is not None:
                part.coming.result(60)

    def _start_broker(self) -> None:
        self.broker.start()
        self._passed_at_start = self.watcher.passed

    def _passing(self) -> int:
        """Return how many batches wait for a receipt over a broker that passes messages on."""
        return self.waiting() if self.broker.running and self.watcher.passed > self._passed_at_start else 0

    @property
    def _victim(self) -> str:
        """The collector whose turn it is to be killed: where there are several, each in its turn."""
        return list(self.collectors)[self._turn % len(self.collectors)]

    def _kill_collector(self) -> None:
        self._killed(self._victim)

    def _start_next(self) -> None:
        self.start_collector(name=self._victim)
        self._turn += 1

    def start_collector(self, crash: str = "", *, name: str = "collector") -> None:
        self._note_log(name)
        self.rig.start(name, [*module("banua_collector.cli"), "run", "--config", str(self.collectors[name])], crash)

    def start_collectors(self) -> None:
        """Start all of them, anew if they run."""
        for name in self.collectors:
            self.start_collector(name=name)

    def kill_collectors(self) -> None:
        for name in self.collectors:
            self._killed(name)

    def start_load(self, crash: str = "", *, drain: bool = False) -> None:
        self._note_log("load")
        self._began_ms = boottime_ms()
        configs = [str(self.rig.folder / name / "probe.toml") for name in self.names]
        options = ["--truth", str(self.truth), "--seed", str(self.seed + len(self.looks))]
        options += ["--period-ms", str(self.settings.period_ms), *self.settings.load_options]
        options += ["--drain"] if drain else []
        command = [*module("banua_lab.cli"), "load", *configs, *options]
        self.rig.start("load", command, crash)

    def kill_load(self) -> None:
        """Kill the load process and look at what it left on disk."""
        self._killed("load")
        self.look()

    def _killed(self, name: str) -> None:
        self.rig.kill(name)
        if name in self.collectors:
            with contextlib.suppress(psycopg.OperationalError):
                self.check_receipts()

    def check_receipts(self) -> None:
        """Note what was receipted and is not in the journal now that its collector is dead: nobody will store it."""
        fresh = self.watcher.receipts - self._confirmed
        for query in ("SELECT hash FROM batches ORDER BY id DESC LIMIT 2000", "SELECT hash FROM batches"):
            if fresh:
                stored = {bytes(digest)[:8] for (digest,) in self.journal.rows(query)}
                self._confirmed |= {name for name in fresh if name.hash8 in stored}
                fresh -= self._confirmed
        self.early |= fresh

    def _note_log(self, name: str) -> None:
        file = self.rig.folder / f"{name}.log"
        self._log_from[name] = file.stat().st_size if file.exists() else 0

    def _told(self, name: str) -> bool:
        """Say whether a process runs and has told that it is connected."""
        process = self.rig.processes.get(name)
        if process is None or process.poll() is not None:
            return False
        with (self.rig.folder / f"{name}.log").open("rb") as log:
            log.seek(self._log_from[name])
            return b": connected" in log.read()

    # --- what is seen from outside ------------------------------------------------------------------------------------

    def outbox(self, name: str) -> Path:
        return self.state(name) / "outbox.db"

    def waiting(self) -> int:
        """Return how many sealed batches have no receipt that their outbox knows of."""
        return sum(
            rows(self.outbox(name), "SELECT count(*) FROM batches WHERE state = 'waiting'")[0][0]
            for name in self.names
            if self.outbox(name).exists()
        )

    def due(self) -> int:
        """Return how many batches wait to be written to InfluxDB."""
        return int(self.journal.rows("SELECT count(DISTINCT batch_id) FROM todo")[0][0])

    def count(self, table: str) -> int:
        return int(self.journal.rows(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 (a name of ours)

    def look(self) -> Look:
        """Look into copies of the outboxes after the load process has ended: their own files stay as they are."""
        ended_ms = boottime_ms()
        waiting: set[Identity] = set()
        with tempfile.TemporaryDirectory() as folder:
            for name in self.names:
                for boot, packed in self._copied(name, Path(folder)):
                    kind, at, values = msgspec.msgpack.decode(packed)
                    if kind == "radio":
                        waiting.add((name, boot.hex(), values["modem"], at))
        look = Look(self._began_ms, ended_ms, frozenset(waiting), frozenset(self._sealed))
        self.looks.append(look)
        return look

    def _copied(self, name: str, folder: Path) -> list[tuple[bytes, bytes]]:
        """Return the open rows of a probe's outbox, and remember the batches sealed since the last look."""
        copy = folder / f"{name}.db"
        for suffix in ("", "-wal"):
            source = Path(f"{self.outbox(name)}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{copy}{suffix}")
        if not copy.exists():
            return []
        with contextlib.closing(sqlite3.connect(copy)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'batches'").fetchone():
                return []
            fresh = "SELECT id, stream, seq, hash8 FROM batches WHERE id > ? ORDER BY id"
            for number, stream, seq, hash8 in db.execute(fresh, (self._last_id[name],)):
                self._last_id[name] = number
                self._sealed.add(Name(name, stream, seq, hash8))
            return db.execute("SELECT boot_id, row FROM open_rows").fetchall()

    def unreceipted(self, name: str) -> tuple[frozenset[Name], frozenset[Identity]]:
        """Return what only this outbox knows of: batches that wait for a receipt, and their rows and the open ones."""
        names: set[Name] = set()
        identities: set[Identity] = set()
        for stream, seq, hash8, message in rows(
            self.outbox(name), "SELECT stream, seq, hash8, message FROM batches WHERE state = 'waiting'"
        ):
            names.add(Name(name, stream, seq, hash8))
            identities |= {
                (name, unpack(message)[0].boot_id.hex(), str(row.values["modem"]), row.boottime_ms)
                for row in open_rows(message)
                if row.kind == "radio"
            }
        opened = {identity for identity in self.looks[-1].open_rows if identity[0] == name}
        return frozenset(names), frozenset(identities | opened)

    def forget_outbox(self, name: str) -> None:
        """Take note that a new outbox file begins: its batches are numbered anew."""
        self._last_id[name] = 0

    # --- the end ------------------------------------------------------------------------------------------------------

    def settle(self, within_s: float = 90, *, fresh_collector: bool = True, dated: bool = True) -> None:
        """Let everything arrive: probes that measure nothing deliver what is left, and the projection finishes.

        A fresh collector and fresh probes have no back-off to sit out. `dated`: every row has a good time in the end.
        """
        self.all_up()
        self._settled += 1
        self.kill_load()
        if fresh_collector:
            self.start_collectors()
        self.start_load(drain=True)
        wait_for("probes that deliver", lambda: self._told("load"), 30)
        wait_for("the last events", self._all_told, within_s)
        wait_for("empty outboxes", self._all_receipted, within_s)
        self.projected(within_s)
        self.kill_load()
        if dated:
            assert self.withheld() == 0, f"{self.withheld()} rows wait for a better time"

    def projected(self, within_s: float = 90) -> None:
        """Wait until InfluxDB has all there is."""
        wait_for("the projection to finish", lambda: self.due() == 0, within_s)

    def withheld(self) -> int:
        """Return how many rows of the journal are not written for want of a time."""
        return int(self.journal.rows("SELECT coalesce(sum(withheld), 0) FROM written")[0][0])

    def _all_told(self) -> bool:
        """Say whether the last event of each draining probe is in the journal."""
        self.tend()
        told = self.journal.rows("SELECT n FROM events WHERE name = 'drained'")
        return [n for (n,) in told].count(DRAIN_EVENTS) >= len(self.names) * self._settled

    def _all_receipted(self) -> bool:
        return all(
            rows(self.outbox(name), "SELECT count(*) FROM batches WHERE state = 'waiting'")[0][0] == 0
            and rows(self.outbox(name), "SELECT count(*) FROM open_rows")[0][0] == 0
            for name in self.names
        )

    def evidence(self) -> Evidence:
        """Gather what is to be compared, everything read from outside."""
        made = [
            Made(
                (line["probe"], line["boot"], line["values"]["modem"], line["boottime_ms"]),
                line["wall_ms"],
                line["values"],
            )
            for line in truth_lines(self.truth)
        ]
        return Evidence(
            made=made,
            looks=self.looks,
            receipts=set(self.watcher.receipts),
            stored_to=dict(self.watcher.stored_to),
            journal=self.stored(),
            points=self.points(),
            window_ms=WINDOW_MS,
            early=frozenset(self.early),
        )

    def stored(self) -> list[Stored]:
        """Return the journal, its batches opened by the wire codec."""
        query = (
            "SELECT p.name, s.stream, b.seq, b.hash, b.boot_id, b.message FROM batches b"
            " JOIN probes p ON p.id = b.probe_id JOIN streams s ON s.id = b.stream_id"
        )
        return [
            Stored(
                Name(probe, bytes(stream), seq, bytes(digest)[:8]),
                bytes(boot).hex(),
                [(row.kind, row.boottime_ms, row.values) for row in open_rows(bytes(message))],
            )
            for probe, stream, seq, digest, boot, message in self.journal.rows(query)
        ]

    def points(self) -> list[dict[str, Any]]:
        """Return every point of the bucket."""
        measurements = [row["name"] for row in self.influxd.query("SHOW MEASUREMENTS", self.bucket)]
        return [
            point
            for measurement in measurements
            for point in self.influxd.query(f"SELECT * FROM {measurement} GROUP BY *", self.bucket)  # noqa: S608
        ]

    def compare(self, evidence: Evidence | None = None) -> None:
        """Fail with the first differences, if there are any; else print the figures."""
        evidence = evidence or self.evidence()
        found = differences(evidence)
        evidence.figures["collectors that ended by themselves"] = self.tended
        figures = ", ".join(f"{name}: {number}" for name, number in evidence.figures.items())
        print(f"kills with work in flight: {dict(self.kills)}; {figures}")
        assert not found, f"{len(found)} differences, seed {self.seed}:\n" + "\n".join(found[:20])


def boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def storm(
    world: World, kills_each: int, rng: random.Random, gap_s: tuple[float, float] = (0.0, 0.4), *, tell: bool = True
) -> None:
    """Kill every part so often, each time at a random moment and with work in flight, while others still come up.

    The order is drawn round by round: whoever waits longer after each broken connection is itself killed now and then.
    """
    for number in range(kills_each):
        for name in rng.sample(sorted(world.parts), len(world.parts)):
            time.sleep(rng.uniform(*gap_s))
            began = time.monotonic()
            work = world.strike(name)
            if tell:
                print(f"{number}: killed {name} with {work} in flight, awaited {time.monotonic() - began:.1f} s")
