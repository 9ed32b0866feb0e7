"""What a probe senses: one file a sensor, one line each in the registry below.

A sensor is settings, a pure row builder and a thin runner. Each instance is a `Task` that runs in a thread of its own,
so that a modem that hangs delays nobody else.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from banua_probe.config import Config, DnsQuery, Modem, PathTarget, WebTarget, Wifi
from banua_probe.modem.at_modem import AtModem
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.port import AtPort
from banua_probe.sensors.board import board_row, read_board
from banua_probe.sensors.bound import who
from banua_probe.sensors.dns import ask
from banua_probe.sensors.hops import TracePolicy, hop_rows, measure_hops
from banua_probe.sensors.modems import SharedModem
from banua_probe.sensors.names import Names
from banua_probe.sensors.neighbours import look_around
from banua_probe.sensors.operators import OperatorScans
from banua_probe.sensors.path import Tools, measure
from banua_probe.sensors.radio import RadioPolls
from banua_probe.sensors.web import fetch
from banua_probe.sensors.wifi import wifi_rows
from banua_wire.fields import Value
from banua_wire.rows import Row

LOG: Final = logging.getLogger("banua_probe")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sensors may use of the daemon: its clock, its backlog (batches waiting, bytes used), and chance."""

    boottime_ms: Callable[[], int]
    backlog: Callable[[], tuple[int, int]]
    rng: random.Random
    modems: dict[str, SharedModem] = field(default_factory=dict)
    """The modems by name, each owned once however many sensors ask it."""

    def modem(self, settings: Modem) -> SharedModem:
        """Return the one owner of the modem in `settings`."""
        if settings.name not in self.modems:
            modem = AtModem(AtPort(settings.device), DIALECTS[settings.dialect])
            self.modems[settings.name] = SharedModem(modem)
        return self.modems[settings.name]


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
    policy, names = TracePolicy(), Names()

    def task(target: PathTarget) -> Task:
        def run(interface: str) -> Row:
            return measure(target, around.boottime_ms, interface, Tools(names))

        def hops(row: Row, interface: str) -> list[Row]:
            trigger = policy.due(row) if target.trace else None
            if trigger is None:
                return []
            began_ms = around.boottime_ms()
            try:
                return measure_hops(target, interface, trigger, around.boottime_ms, names)
            except Exception as error:  # a bug there must not take the row of the train with it
                LOG.exception("hops %s failed", target.target)
                reason = f"error in the probe: {error!r}"
                return hop_rows(target.target, target.modem, trigger, began_ms, None, interface, reason)

        return _bound("path", target, config, around, run, hops)

    return [task(target) for target in config.targets]


def _dns(config: Config, around: Surroundings) -> list[Task]:
    def task(query: DnsQuery) -> Task:
        def run(interface: str) -> Row:
            return ask(query, around.boottime_ms, interface=interface)

        return _bound("dns", query, config, around, run)

    return [task(query) for query in config.dns]


def _web(config: Config, around: Surroundings) -> list[Task]:
    def task(target: WebTarget) -> Task:
        def run(interface: str) -> Row:
            return fetch(target, around.boottime_ms, interface=interface)

        return _bound("web", target, config, around, run)

    return [task(target) for target in config.web]


def _bound(
    kind: str,
    test: PathTarget | DnsQuery | WebTarget,
    config: Config,
    around: Surroundings,
    run: Callable[[str], Row],
    then: Callable[[Row, str], list[Row]] = lambda _row, _interface: [],
) -> Task:
    """Return the task that runs a test over the interface it is bound to, and `then` what follows from its row.

    A scan stops the modem's data: what is lost then is not the network's loss. So nothing is run while the interface's
    modem scans, a test during which a scan began is not measured whatever it heard, and what follows is dropped then.
    """
    interface = config.interface_of(test)
    modems = [around.modem(modem) for modem in config.modem if interface and modem.interface == interface]
    named = who(kind, test, interface)
    resting: dict[str, Value] = {"outcome": "not_measured", "reason": "the modem is scanning for operators"}

    def guarded() -> list[Row]:
        began_ms = around.boottime_ms()
        scans = [modem.scans for modem in modems]

        def scanned() -> bool:
            return any(modem.scanning for modem in modems) or scans != [modem.scans for modem in modems]

        row = None if scanned() else run(interface)
        if row is None or scanned():
            return [Row(kind, began_ms, named | resting)]
        more = then(row, interface)
        return [row] if scanned() else [row, *more]

    return Task(" ".join([kind, *map(str, named.values())]), test.every_s * 1000, guarded)


def _radio(config: Config, around: Surroundings) -> list[Task]:
    return [
        Task(
            f"radio {modem.name}",
            modem.poll_s * 1000,
            RadioPolls(modem, around.modem(modem), around.boottime_ms).run,
        )
        for modem in config.modem
    ]


def _neighbours(config: Config, around: Surroundings) -> list[Task]:
    def task(modem: Modem) -> Task:
        shared = around.modem(modem)
        return Task(
            f"neighbours {modem.name}",
            modem.neighbours_s * 1000,
            lambda: look_around(modem, shared, around.boottime_ms),
        )

    return [task(modem) for modem in config.modem if modem.neighbours_s and DIALECTS[modem.dialect].neighbours]


def _operators(config: Config, around: Surroundings) -> list[Task]:
    def task(modem: Modem) -> Task:
        scans = OperatorScans(modem, around.modem(modem), around.boottime_ms, lambda: around.backlog()[0])
        return Task(f"operators {modem.name}", modem.operators_s * 1000, scans.run)

    return [task(modem) for modem in config.modem if modem.operators_s]


def _wifi(config: Config, around: Surroundings) -> list[Task]:
    def task(settings: Wifi) -> Task:
        return Task(
            f"wifi {settings.interface}", settings.every_s * 1000, lambda: wifi_rows(settings, around.boottime_ms)
        )

    return [task(settings) for settings in config.wifi]


SENSORS: Final[Mapping[str, Sensor]] = MappingProxyType(
    {
        "board": _board,
        "radio": _radio,
        "neighbours": _neighbours,
        "operators": _operators,
        "path": _path,
        "dns": _dns,
        "web": _web,
        "wifi": _wifi,
    }
)
"""The registry: a new sensor is one line here."""


def tasks(config: Config, around: Surroundings, *, single: bool = False) -> list[Task]:
    """Return every task the configuration asks for; with `single`, each makes its row at the first run.

    A single run scans for no operators: that would stop the modem's data for minutes.
    """
    if single:
        modems = [msgspec.structs.replace(modem, row_s=modem.poll_s, operators_s=0) for modem in config.modem]
        config = msgspec.structs.replace(config, modem=modems)
    return [task for sensor in SENSORS.values() for task in sensor(config, around)]
