"""What a probe senses: one file a sensor, one line each in the registry below.

A sensor is settings, a pure row builder and a thin runner. Each instance is a `Task` that runs in a thread of its own,
so that a modem that hangs delays nobody else.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from banua_probe.config import Config, Modem, PathTarget
from banua_probe.modem.at_modem import AtModem
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.port import AtPort
from banua_probe.modem.reading import Reading
from banua_probe.sensors.board import board_row, read_board
from banua_probe.sensors.path import measure
from banua_probe.sensors.radio import Poll, radio_row
from banua_wire.rows import Row


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sensors may use of the daemon: its clock, its backlog (batches waiting, bytes used), and chance."""

    boottime_ms: Callable[[], int]
    backlog: Callable[[], tuple[int, int]]
    rng: random.Random


@dataclass(frozen=True, slots=True)
class Task:
    """A sensor instance: run every `period_ms`; a run returns the rows it finished."""

    name: str
    period_ms: int
    run: Callable[[], list[Row]]


Sensor = Callable[[Config, Surroundings], list[Task]]


def _board(config: Config, around: Surroundings) -> list[Task]:
    def run() -> list[Row]:
        waiting, used = around.backlog()
        values = read_board(Path("/"), Path(config.state_dir))
        return [board_row(around.boottime_ms(), values, waiting=waiting, outbox_bytes=used)]

    return [Task("board", config.schedule.board_s * 1000, run)]


def _path(config: Config, around: Surroundings) -> list[Task]:
    def task(target: PathTarget) -> Task:
        return Task(
            f"path {target.target}",
            target.every_s * 1000,
            lambda: [measure(target, around.boottime_ms, time.sleep)],
        )

    return [task(target) for target in config.path]


def _radio(config: Config, around: Surroundings) -> list[Task]:
    return [
        Task(f"radio {modem.name}", modem.poll_s * 1000, _ModemPoller(modem, around.boottime_ms).run)
        for modem in config.modem
    ]


class _ModemPoller:
    """Polls one modem and closes a row when its interval is over."""

    def __init__(self, settings: Modem, boottime_ms: Callable[[], int]) -> None:
        self._settings, self._boottime_ms = settings, boottime_ms
        self._modem = AtModem(AtPort(settings.device), DIALECTS[settings.dialect])
        self._sim_plmn: str | None = None
        self._polls: list[Poll] = []

    def run(self) -> list[Row]:
        """Poll once; return the interval's row when that was its last poll."""
        reading = self._poll()
        self._polls.append(Poll(self._boottime_ms(), reading))
        if len(self._polls) < self._settings.row_s // self._settings.poll_s:
            return []
        polls, self._polls = self._polls, []
        settings = self._settings
        now = self._boottime_ms()
        return [radio_row(settings.name, polls, now, sim_plmn=self._sim_plmn, simulated=settings.simulated)]

    def _poll(self) -> Reading | None:
        try:
            if self._sim_plmn is None:
                self._sim_plmn = self._modem.identify().sim_plmn
            return self._modem.poll()
        except ModemUnavailable:
            self._sim_plmn = None  # another SIM may be in it when it comes back
            return None


SENSORS: Final[Mapping[str, Sensor]] = MappingProxyType({"board": _board, "radio": _radio, "path": _path})
"""The registry: a new sensor is one line here."""


def tasks(config: Config, around: Surroundings, *, single: bool = False) -> list[Task]:
    """Return every task the configuration asks for; with `single`, each makes its row at the first run."""
    if single:
        modems = [msgspec.structs.replace(modem, row_s=modem.poll_s) for modem in config.modem]
        config = msgspec.structs.replace(config, modem=modems)
    return [task for sensor in SENSORS.values() for task in sensor(config, around)]
