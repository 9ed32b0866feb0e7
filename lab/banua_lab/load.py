"""Many signed probes in one process, whose every row is in a truth file before it enters the batcher.

Each is a real `Probe` (outbox, delivery, uplink) with one synthetic sensor: a random walk of radio values under a seed.
The truth file is what tests compare databases with.
"""

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from banua_probe import clock
from banua_probe.app import Probe, crash_point, read_secret
from banua_probe.config import Config
from banua_probe.outbox import Outbox, Owner
from banua_probe.sensors import Surroundings, Task
from banua_wire.fields import Value
from banua_wire.rows import Row

MODEMS: Final = ("sim0", "sim1")


class Truth:
    """A truth file: one JSON object a line, flushed to the kernel before `write` returns, whatever kills us next."""

    def __init__(self, file: Path) -> None:
        """Append to `file`."""
        self._lock = threading.Lock()
        self._out: TextIO = file.open("a", encoding="utf-8")

    def write(self, **told: Any) -> None:
        """Write one line."""
        with self._lock:
            self._out.write(json.dumps(told) + "\n")
            self._out.flush()


@dataclass(slots=True)
class Walk:
    """A random walk of what one modem says; the same seed walks the same way."""

    rng: random.Random
    rsrp_dbm: float = -105.0

    def row(self, modem: str, boottime_ms: int) -> Row:
        """Return the next row of `modem`."""
        rng = self.rng
        self.rsrp_dbm = min(max(self.rsrp_dbm + rng.choice((-1.5, -0.5, 0, 0.5, 1.5)), -140), -60)
        values: dict[str, Value] = {
            "modem": modem,
            "polls": 6,
            "polls_registered": 6,
            "polls_failed": 0,
            "state": "registered",
            "rat": "lte",
            "sim_plmn": "51010",
            "plmn": "51010",
            "cell_id": 27_438_851 + rng.randrange(3),
            "tac": 24_013,
            "pci": 211,
            "earfcn": 1850,
            "band": 3,
            "rsrp_dbm": self.rsrp_dbm,
            "rsrq_db": -11 + rng.randrange(-4, 5) / 2,
            "rssi_dbm": self.rsrp_dbm + 31,
            "value_age_ms": rng.randrange(10_000),
        }
        return Row("radio", boottime_ms, values)


def sensor(truth: Truth, seed: int, period_ms: int) -> Callable[[Config, Surroundings], list[Task]]:
    """Return a sensor that makes one row a modem every `period_ms`, each written to `truth` first."""

    def tasks(config: Config, around: Surroundings) -> list[Task]:
        walks = {modem: Walk(random.Random(f"{seed} {config.name} {modem}")) for modem in MODEMS}  # noqa: S311

        def run() -> list[Row]:
            now = around.boottime_ms()
            made = [walk.row(modem, now) for modem, walk in walks.items()]
            boot = clock.boot_id().hex()
            for row in made:
                truth.write(
                    probe=config.name,
                    boot=boot,
                    kind=row.kind,
                    boottime_ms=row.boottime_ms,
                    wall_ms=time.time_ns() // 1_000_000,
                    values=row.values,
                )
            return made

        return [Task("load", period_ms, run)]

    return tasks


def run(configs: list[Config], truth_file: Path, *, seed: int, period_ms: int) -> int:
    """Run a probe for each configuration until SIGTERM or SIGINT; their keys and state are where each one says."""
    truth = Truth(truth_file)
    checkpoint = crash_point()
    probes: list[Probe] = []
    threads: list[threading.Thread] = []
    for config in configs:
        owner = Owner(config.name, read_secret(Path(config.key_file)), clock.boot_id(), clock.boottime_ms)
        outbox = Outbox(config.outbox_file, owner, max_bytes=config.outbox.max_mb * 1_000_000, checkpoint=checkpoint)
        rng = random.Random(f"{seed} {config.name}")  # noqa: S311 (jitter)
        probe = Probe(config, outbox, owner, rng, sense=sensor(truth, seed, period_ms), checkpoint=checkpoint)
        probes.append(probe)
        threads.append(threading.Thread(target=_run_one, args=(probe, outbox), name=config.name))

    def stop(*_: object) -> None:
        for probe in probes:
            probe.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _run_one(probe: Probe, outbox: Outbox) -> None:
    with outbox:
        probe.run()
