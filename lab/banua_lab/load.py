"""Many signed probes in one process, whose every row is in a truth file before it enters the batcher.

Each is a real `Probe` (outbox, delivery, uplink) with one synthetic sensor: a random walk of radio values under a seed.
The truth file is what tests compare databases with: a row is told from every other of its modem by its `cell_id`.
"""

import json
import logging
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
from banua_probe.clock import Anchor
from banua_probe.config import Config
from banua_probe.outbox import Outbox, Owner
from banua_probe.sensors import Surroundings, Task
from banua_wire.fields import Value
from banua_wire.rows import Row

MODEMS: Final = ("sim0", "sim1")
DRAIN_EVENTS: Final = 3


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
            "cell_id": boottime_ms % 2**36,
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


def moment() -> tuple[int, int]:
    """Return CLOCK_BOOTTIME and wall time of one moment, both in ms: read again if something came in between."""
    while True:
        boottime_ms = clock.boottime_ms()
        wall_ms = time.time_ns() // 1_000_000
        if clock.boottime_ms() - boottime_ms <= 1:
            return boottime_ms, wall_ms


def stepped_clock(file: Path) -> Callable[[], Anchor | None]:
    """Return a kernel that vouches for a clock as wrong as `file` says: `STEP_MS ERROR_MS`; without it, for none."""

    def anchor() -> Anchor | None:
        try:
            step_ms, error_ms = map(int, file.read_text(encoding="ascii").split())
        except FileNotFoundError:
            return None
        boottime_ms, wall_ms = moment()
        return Anchor(boottime_ms, wall_ms + step_ms, error_ms + 1, "ntp")

    return anchor


def drain_sensor(_config: Config, around: Surroundings) -> list[Task]:
    """Make no measurements: what is left is delivered, and a few events with it, so that anchors can travel."""
    left = iter(range(1, DRAIN_EVENTS + 1))

    def run() -> list[Row]:
        values: dict[str, Value] = {"name": "drained", "n": next(left, 0), "detail": "-"}
        return [Row("event", around.boottime_ms(), values)] if values["n"] else []

    return [Task("drain", 1000, run)]


def sensor(truth: Truth, seed: int, period_ms: int) -> Callable[[Config, Surroundings], list[Task]]:
    """Return a sensor that makes one row a modem every `period_ms`, each written to `truth` first."""

    def tasks(config: Config, _around: Surroundings) -> list[Task]:
        walks = {modem: Walk(random.Random(f"{seed} {config.name} {modem}")) for modem in MODEMS}  # noqa: S311

        def run() -> list[Row]:
            now, wall_ms = moment()
            made = [walk.row(modem, now) for modem, walk in walks.items()]
            boot = clock.boot_id().hex()
            for row in made:
                truth.write(
                    probe=config.name,
                    boot=boot,
                    kind=row.kind,
                    boottime_ms=row.boottime_ms,
                    wall_ms=wall_ms,
                    values=row.values,
                )
            return made

        return [Task("load", period_ms, run)]

    return tasks


def run(
    configs: list[Config],
    truth_file: Path,
    *,
    seed: int,
    period_ms: int,
    drain: bool = False,
    clock_file: Path | None = None,
) -> int:
    """Run a probe for each configuration until SIGTERM or SIGINT; their keys and state are where each one says.

    With `drain` they measure nothing. `clock_file` is for `stepped_clock`; without one the kernel's own clock counts.
    """
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    sense = drain_sensor if drain else sensor(Truth(truth_file), seed, period_ms)
    ntp = stepped_clock(clock_file) if clock_file else clock.ntp_anchor
    checkpoint = crash_point()
    probes: list[Probe] = []
    threads: list[threading.Thread] = []
    for config in configs:
        owner = Owner(config.name, read_secret(Path(config.key_file)), clock.boot_id(), clock.boottime_ms)
        outbox = Outbox(config.outbox_file, owner, max_bytes=config.outbox.max_mb * 1_000_000, checkpoint=checkpoint)
        rng = random.Random(f"{seed} {config.name}")  # noqa: S311 (jitter)
        probe = Probe(config, outbox, owner, rng, sense=sense, ntp=ntp, checkpoint=checkpoint)
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
