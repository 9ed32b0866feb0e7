"""Receipts under power cuts: kill -9 of probe and collector at named points and at random, with work in flight.

The truth is the load generator's file; the comparison reads it, the journal, the outboxes and InfluxDB, nothing else.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from banua_wire.batch import open_rows
from tests.system.rig import Rig, module, truth_lines, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.real.influxd import Influxd
    from tests.real.mosquitto import Mosquitto

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

PROBES = ("kalsel-0001", "kalsel-0002", "kalsel-0003")
PERIOD_MS = 100
COMMIT_S = 1
LOST_WITH_MEMORY_MS = 2500
"""A row may die with the process as long as its commit was not due: the commit interval, and what a step takes."""


class Trial:
    """A rig under load, its kills, and the comparison at the end."""

    def __init__(self, folder: Path, rig: Rig, seed: int) -> None:
        self.rig, self.truth, self.seed = rig, folder / "truth.jsonl", seed
        self.starts = 0
        self.deaths_ms: list[int] = []
        for name in PROBES:
            rig.add_probe(name, schedule=f"commit_s = {COMMIT_S}\nseal_s = 1\nboard_s = 3600")

    def start_load(self, crash: str = "") -> None:
        self.starts += 1
        configs = [str(self.rig.folder / name / "probe.toml") for name in PROBES]
        options = ["--truth", str(self.truth), "--seed", str(self.seed + self.starts), "--period-ms", str(PERIOD_MS)]
        self.rig.start("load", [*module("banua_lab.cli"), "load", *configs, *options], crash)

    def kill_load(self) -> None:
        self.rig.kill("load")
        self.deaths_ms.append(time.time_ns() // 1_000_000)

    def in_flight(self) -> int:
        """Return how many sealed batches wait for a receipt right now."""
        return sum(
            self.rig.outbox(name, "SELECT count(*) FROM batches WHERE state = 'waiting'")[0][0] for name in PROBES
        )

    def finish(self) -> None:
        """Let everything arrive: the load stops cleanly, then probes without a sensor deliver what is left."""
        self.rig.kill("load")
        self.deaths_ms.append(time.time_ns() // 1_000_000)
        for name in PROBES:
            self.rig.start_probe(name)
        wait_for("an empty outbox", lambda: self.in_flight() == 0, within_s=90)
        for name in PROBES:
            self.rig.kill(name)

    def compare(self, influx: Influxd, bucket: str) -> str:
        """Assert that each batch is once in the journal, each row once in InfluxDB and equal to the truth."""
        rig = self.rig
        sealed = {
            (name, stream, seq, hash8)
            for name in PROBES
            for stream, seq, hash8 in rig.outbox(name, "SELECT stream, seq, hash8 FROM batches")
        }
        stored = rig.sql(
            "SELECT p.name, s.stream, b.seq, substr(b.hash, 1, 8), b.message FROM batches b"
            " JOIN probes p ON p.id = b.probe_id JOIN streams s ON s.id = b.stream_id"
        )
        assert sorted(row[:4] for row in stored) == sorted(sealed), "each sealed batch is in the journal exactly once"
        journalled: dict[tuple[str, str, int], dict[str, Any]] = {}
        for probe, _, _, _, message in stored:
            for row in open_rows(message):
                if row.kind == "radio":
                    identity = (probe, str(row.values["modem"]), row.boottime_ms)
                    assert identity not in journalled, f"{identity} stands in two batches"
                    journalled[identity] = row.values
        truth = {(t["probe"], t["values"]["modem"], t["boottime_ms"]): t for t in truth_lines(self.truth)}
        assert {key: truth[key]["values"] for key in journalled} == journalled, "every journalled row is as it was made"
        gone = [t["wall_ms"] for key, t in truth.items() if key not in journalled]
        early = [ms for ms in gone if not any(0 <= death - ms <= LOST_WITH_MEMORY_MS for death in self.deaths_ms)]
        assert not early, f"{len(early)} rows were lost that had been due on disk"
        wait_for("the projection to finish", lambda: rig.sql("SELECT count(*) FROM todo")[0][0] == 0, within_s=60)
        points = influx.query("SELECT * FROM radio GROUP BY *", bucket)
        seen = sorted((p["probe"], p["modem"], p["rsrp_dbm"], p["cell_id"], p["value_age_ms"]) for p in points)
        made = sorted(
            (probe, modem, v["rsrp_dbm"], v["cell_id"], v["value_age_ms"])
            for (probe, modem, _), v in journalled.items()
        )
        assert seen == made, "each row is in InfluxDB exactly once, with its values"
        for point in points:
            when = point["time"] // 1_000_000
            near = [
                t["wall_ms"]
                for (probe, modem, _), t in truth.items()
                if (probe, modem, t["values"]["value_age_ms"])
                == (point["probe"], point["modem"], point["value_age_ms"])
                and abs(t["wall_ms"] - when) <= point["time_error_ms"] + 50
            ]
            assert near, f"no row of the truth is within the stated error of {point}"
        return f"{len(sealed)} batches, {len(journalled)} rows of {len(truth)} made, {len(gone)} lost with memory"


@pytest.fixture
def trial(tmp_path: Path, mosquitto: Mosquitto, authority: Authority, influxd: Influxd, bucket: str) -> Any:
    seed = int(os.environ.get("BANUA_SEED", random.randrange(10**6)))
    print(f"BANUA_SEED={seed}")
    with Rig(tmp_path / "rig", mosquitto, authority, (influxd, bucket)) as rig:
        yield Trial(tmp_path, rig, seed)


def test_kills_at_every_named_point_lose_and_double_nothing(trial: Trial, influxd: Influxd, bucket: str) -> None:
    rig = trial.rig
    rig.start_collector()
    trial.start_load()
    wait_for("the first batches", lambda: rig.sql("SELECT count(*) FROM batches")[0][0] > 5)
    for point in ("before_commit", "after_commit", "before_receipt"):
        for nth in (2, 3):
            rig.kill("collector")
            rig.start_collector(crash=f"{point}:{nth}")
            wait_for(f"the collector to die {point}", lambda: rig.ended("collector"), within_s=60)
            print(f"collector died {point}:{nth} with {trial.in_flight()} batches in flight")
            rig.start_collector()
    for point in ("mid_seal", "after_publish"):
        for nth in (2, 5):
            trial.kill_load()
            trial.start_load(crash=f"{point}:{nth}")
            wait_for(f"the load to die {point}", lambda: rig.ended("load"), within_s=60)
            trial.kill_load()
            print(f"probes died {point}:{nth} with {trial.in_flight()} batches in flight")
            trial.start_load()
    trial.finish()
    print(trial.compare(influxd, bucket))


def test_random_kills_with_work_in_flight_lose_and_double_nothing(trial: Trial, influxd: Influxd, bucket: str) -> None:
    rig, rng = trial.rig, random.Random(trial.seed)
    rig.start_collector()
    trial.start_load()
    wait_for("the first batches", lambda: rig.sql("SELECT count(*) FROM batches")[0][0] > 5)
    in_flight: list[int] = []
    for _ in range(12):
        time.sleep(rng.uniform(0.3, 2.0))
        victim = rng.choice(("collector", "load"))
        waiting = trial.in_flight()
        in_flight.append(waiting)
        if victim == "collector":
            rig.kill("collector")
            time.sleep(rng.uniform(0, 1.0))
            rig.start_collector()
        else:
            trial.kill_load()
            trial.start_load()
        print(f"killed {victim} with {waiting} batches in flight")
    assert any(in_flight), "no kill met work in flight: the run proves nothing"
    trial.finish()
    print(trial.compare(influxd, bucket))
