"""Random kills of every part for an hour, compared with the truth again and again.

Twenty probes speak every second; probes, broker, collectors, database and InfluxDB are killed with work in flight.
Every few minutes all of it may arrive, and everything since the start is compared.

usage: python -m tools.soak [--minutes N] [--seed N] [--database sqlite|postgresql]
Exits 1 with the first differences.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from banua_lab.ca import Authority
from tests.faults.compare import differences
from tests.faults.harness import Settings, World, storm
from tests.faults.journals import PostgresJournal, SqliteJournal
from tests.real.influxd import Influxd

JOURNALS: Final = {kind.kind: kind for kind in (SqliteJournal, PostgresJournal)}
ROUNDS: Final = 30
"""Kills of each part between two comparisons."""
GAP_S: Final = (0.0, 1.0)
SHOWN: Final = 20


class Progress:
    """Prints a line a minute."""

    def __init__(self, world: World) -> None:
        self._world, self._began, self._next = world, time.monotonic(), time.monotonic() + 60

    def tell(self, *, now: bool = False) -> None:
        """Print how far it is, if a minute has passed."""
        if now or time.monotonic() >= self._next:
            self._next = time.monotonic() + 60
            minutes = (time.monotonic() - self._began) / 60
            kills = ", ".join(f"{name} {count}" for name, count in sorted(self._world.kills.items()))
            print(
                f"{minutes:.0f} min: {self._world.kills.total()} kills ({kills}), {self._world.waiting()} in flight",
                flush=True,
            )


def soak(world: World, minutes: float) -> list[str]:
    """Kill and compare until the time is over or something differs; return the differences."""
    rng = random.Random(world.seed)  # noqa: S311 (a seed, not a secret)
    progress = Progress(world)
    end = time.monotonic() + minutes * 60
    world.begin()
    while True:
        for _ in range(ROUNDS):
            storm(world, 1, rng, GAP_S, tell=False)
            progress.tell()
            if time.monotonic() >= end:
                break
        world.settle(within_s=600)
        evidence = world.evidence()
        found = differences(evidence)
        progress.tell(now=True)
        print(", ".join(f"{name}: {number}" for name, number in evidence.figures.items()), flush=True)
        if found or time.monotonic() >= end:
            return found
        world.start_load()


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--database", choices=JOURNALS, default=PostgresJournal.kind)
    words = parser.parse_args()
    print(f"seed {words.seed}, {words.database}", flush=True)
    with tempfile.TemporaryDirectory(prefix="banua-soak-") as name:
        folder = Path(name)
        with Influxd(folder / "influxd") as influxd:
            influx = (influxd, influxd.create_bucket("soak"))
            journal = JOURNALS[words.database](folder / "journal")
            authority = Authority.create(folder / "ca")
            settings = Settings(period_ms=1000)
            with World(folder / "world", authority, influx, journal, words.seed, settings) as world:
                found = soak(world, words.minutes)
    for line in found[:SHOWN]:
        print(line)
    print(f"{len(found)} differences, seed {words.seed}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
